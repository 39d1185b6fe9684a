//! The whole matrix of stacks and the round-trip time table, as `make matrix` and
//! `make rtt-table` call it. Raises labs of its own; writes `summary.json` and
//! `table.md`, where results of earlier runs are replaced cell by cell. Exit status 1:
//! something is not as it must be.
//!
//! Arguments are KEY=VALUE: `what` (`matrix`, `rtt`; both by default), `out` (a
//! folder), `pairs` and `parallel` (per cell), `rtt_pairs`, `seed`, and to choose cells
//! `client`, `wire`, `link`, `cc` (a part of the name), and lines `replay`.

use dts_tests::impair::Impairment;
use dts_tests::lab::{Lab, Setup};
use dts_tests::stacks::bed::{Bed, HANDSHAKE_OVERLAY, OVERLAY, USUAL_CC, ping};
use dts_tests::stacks::matrix::{self, Cell, Client, Effort, USUAL};
use dts_tests::stacks::{ahead_of_others, rtt, summary::Summary};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

#[derive(Default)]
struct Plan {
    what: String,
    out: PathBuf,
    pairs: usize,
    parallel: usize,
    rtt_pairs: usize,
    seed: u64,
    client: String,
    wire: String,
    link: String,
    cc: String,
    replay: String,
}

impl Plan {
    fn parse(arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut plan = Self {
            out: "target/matrix".into(),
            pairs: 40,
            parallel: 24,
            rtt_pairs: 200,
            seed: 1,
            ..Self::default()
        };
        for argument in arguments {
            let (key, value) = argument.split_once('=').ok_or("not KEY=VALUE")?;
            let number = || value.parse().map_err(|e| format!("{argument}: {e}"));
            match key {
                "what" => plan.what = value.into(),
                "out" => plan.out = value.into(),
                "pairs" => plan.pairs = number()?,
                "parallel" => plan.parallel = number()?,
                "rtt_pairs" => plan.rtt_pairs = number()?,
                "seed" => plan.seed = number()? as u64,
                "client" => plan.client = value.into(),
                "wire" => plan.wire = value.into(),
                "link" => plan.link = value.into(),
                "cc" => plan.cc = value.into(),
                "replay" => plan.replay = value.into(),
                _ => return Err(format!("{key}: unknown key")),
            }
        }
        Ok(plan)
    }

    fn cells(&self) -> Vec<Cell> {
        let mut cells = Vec::new();
        let mut add = |clients: Vec<Client>, link: &(&'static str, Impairment), cc| {
            for client in clients {
                for wire in matrix::wires() {
                    cells.push(Cell {
                        client,
                        wire,
                        link: link.clone(),
                        cc,
                    });
                }
            }
        };
        let links = matrix::links();
        for link in &links {
            add(Client::all(), link, USUAL_CC);
        }
        // What a server does with its first round-trip time depends on how it paces.
        add(Client::all(), &links[0], "bbr");
        add(vec![USUAL], &links[0], "reno");
        cells
    }

    fn wants(&self, cell: &Cell) -> bool {
        cell.client.name().contains(&self.client)
            && cell.wire.0.contains(&self.wire)
            && cell.link.0.contains(&self.link)
            && cell.cc.contains(&self.cc)
    }
}

fn raise(plan: &Plan, overlay: &'static str) -> Result<Lab, String> {
    // Lives as long as the program.
    let scratch: &'static str = plan.out.to_string_lossy().into_owned().leak();
    Lab::up(&Setup {
        prefix: "dtsm",
        nodes: 3,
        overlay,
        client: "",
        scratch,
    })
}

fn run_matrix(plan: &Plan, summary: &mut Summary) -> Result<(), String> {
    let lab = raise(plan, OVERLAY)?;
    let bare = ping(&lab, 200, "0.01");
    let mut bed = Bed::new(&lab);
    summary.ping_us = [bare, ping(&lab, 200, "0.01")];
    println!(
        "ping, median: {:.0} us without the relay, {:.0} us with it\n{}",
        summary.ping_us[0],
        summary.ping_us[1],
        matrix::HEAD
    );
    let effort = Effort {
        pairs: plan.pairs,
        parallel: plan.parallel,
        confidence: 0.95,
    };
    let mut cc = USUAL_CC;
    for (number, cell) in plan.cells().into_iter().enumerate() {
        if !plan.wants(&cell) {
            continue;
        }
        if cell.cc != cc {
            cc = cell.cc;
            bed.serve(cc);
        }
        let seed = plan
            .seed
            .wrapping_mul(1_000_003)
            .wrapping_add(number as u64);
        let result = matrix::run(&mut bed, &cell, seed, effort);
        println!("{}", matrix::line(&result));
        summary.put_cell(result);
    }
    Ok(())
}

fn run_rtt(plan: &Plan, summary: &mut Summary) -> Result<(), String> {
    println!("{}", rtt::HEAD);
    for (replay, overlay) in [("fast-open", OVERLAY), ("handshake", HANDSHAKE_OVERLAY)] {
        if !replay.contains(&plan.replay) {
            continue;
        }
        let lab = raise(plan, overlay)?;
        let mut bed = Bed::new(&lab);
        for ms in rtt::ROUND_TRIPS_MS {
            let line = rtt::measure(&mut bed, replay, ms, plan.rtt_pairs, plan.seed);
            println!("{}", rtt::rows(&line));
            summary.put_line(line);
        }
    }
    Ok(())
}

fn run() -> Result<bool, String> {
    let plan = Plan::parse(std::env::args().skip(1))?;
    ahead_of_others()?;
    let start = Instant::now();
    let mut summary = Summary::read(&plan.out)?;
    if plan.what != "matrix" {
        run_rtt(&plan, &mut summary)?;
        summary.write(&plan.out)?;
    }
    if plan.what != "rtt" {
        run_matrix(&plan, &mut summary)?;
        summary.write(&plan.out)?;
    }
    let wrong = summary.wrong();
    for text in &wrong {
        println!("NOT AS IT MUST BE: {text}");
    }
    println!(
        "{} cells and {} lines in {}, {} wrong; this run took {:.0} s",
        summary.cells.len(),
        summary.lines.len(),
        plan.out.display(),
        wrong.len(),
        start.elapsed().as_secs_f64()
    );
    Ok(wrong.is_empty())
}

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("stackmatrix: {error}");
            ExitCode::from(2)
        }
    }
}
