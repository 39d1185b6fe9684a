//! Handed over connections beside direct ones, under impairment: a share of the matrix
//! of `make matrix`, the round-trip times that servers measure, and what the relay that
//! impairs adds by itself.

use dts_tests::lab::{Lab, Setup};
use dts_tests::stacks::ahead_of_others;
use dts_tests::stacks::bed::{Bed, HANDSHAKE_OVERLAY, OVERLAY, USUAL_CC, ping};
use dts_tests::stacks::matrix::{self, Cell, Client, Effort, USUAL};
use dts_tests::stacks::rtt;
use dts_tests::suite::{self, Group};
use std::process::ExitCode;

fn main() -> ExitCode {
    if let Err(error) = ahead_of_others() {
        eprintln!("{error}");
        return ExitCode::FAILURE;
    }
    let setup = |overlay| Setup {
        prefix: "dtsk",
        nodes: 3,
        overlay,
        client: env!("CARGO_BIN_EXE_labclient"),
        scratch: env!("CARGO_TARGET_TMPDIR"),
    };
    suite::main(vec![
        Group {
            setup: setup(OVERLAY),
            suffix: "",
            cases: vec![],
            once: vec![
                ("the_relay_adds_little", the_relay_adds_little),
                (
                    "stacks_and_impairments_beside_direct",
                    stacks_and_impairments_beside_direct,
                ),
                (
                    "round_trips_after_fast_open_replay",
                    round_trips_after_fast_open_replay,
                ),
            ],
        },
        Group {
            setup: setup(HANDSHAKE_OVERLAY),
            suffix: "",
            cases: vec![],
            once: vec![(
                "round_trips_after_handshake_replay",
                round_trips_after_handshake_replay,
            )],
        },
    ])
}

fn the_relay_adds_little(lab: &Lab) {
    let without = ping(lab, 200, "0.01");
    let bed = Bed::new(lab);
    let with = ping(lab, 200, "0.01");
    drop(bed);
    println!("ping, median: {without:.0} us without the relay, {with:.0} us with it");
    assert!(
        with < without + 1000.0,
        "the relay adds {:.0} us to a round trip of {without:.0} us",
        with - without
    );
}

fn stacks_and_impairments_beside_direct(lab: &Lab) {
    // Intervals of 99 %: of twenty looks, one in ten seems to be above, and of those
    // one in two hundred again.
    let effort = Effort {
        pairs: 20,
        parallel: 16,
        confidence: 0.99,
    };
    let bare = Client {
        options: [false, false, false, true],
        ..USUAL
    };
    let mut bed = Bed::new(lab);
    let (wires, links) = (matrix::wires(), matrix::links());
    let mut cells: Vec<Cell> = wires
        .iter()
        .map(|wire| Cell {
            client: USUAL,
            wire: wire.clone(),
            link: links[0].clone(),
            cc: USUAL_CC,
        })
        .collect();
    let mut add = |client, wire: usize, link: usize| {
        cells.push(Cell {
            client,
            wire: wires[wire].clone(),
            link: links[link].clone(),
            cc: USUAL_CC,
        });
    };
    add(bare, 0, 0);
    add(bare, 2, 1);
    add(USUAL, 1, 1);
    for kind in ["mptcp", "tfo"] {
        add(Client { kind, ..USUAL }, 2, 0);
    }
    let mut wrong = Vec::new();
    println!("{}", matrix::HEAD);
    for (number, cell) in cells.iter().enumerate() {
        let result = matrix::run(&mut bed, cell, number as u64, effort);
        let line = matrix::line(&result);
        println!("{line}");
        if result.verdict != "ok" {
            wrong.push(line);
        }
    }
    assert!(wrong.is_empty(), "{}\n{}", matrix::HEAD, wrong.join("\n"));
}

fn lines(lab: &Lab, replay: &str) -> Vec<rtt::Line> {
    let mut bed = Bed::new(lab);
    println!("{}", rtt::HEAD);
    rtt::ROUND_TRIPS_MS
        .into_iter()
        .map(|ms| {
            let line = rtt::measure(&mut bed, replay, ms, 20, ms);
            println!("{}", rtt::rows(&line));
            line
        })
        .collect()
}

fn round_trips_after_fast_open_replay(lab: &Lab) {
    for line in lines(lab, "fast-open") {
        let wrong = line.wrong();
        assert!(
            wrong.is_empty(),
            "{wrong:?}\n{}\n{}",
            rtt::HEAD,
            rtt::rows(&line)
        );
    }
}

/// Its cost is told, not judged; that it is there shows that the measurement sees it.
fn round_trips_after_handshake_replay(lab: &Lab) {
    for line in lines(lab, "handshake") {
        let table = format!("{}\n{}", rtt::HEAD, rtt::rows(&line));
        assert!(line.faults.is_empty(), "{:?}\n{table}", line.faults);
        assert!(
            line.service.min_rtt_ms[1] < line.true_ms / 2.0,
            "a handshake replay that measures the client's round trip:\n{table}"
        );
    }
}
