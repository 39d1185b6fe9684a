//! explore
use dts_tests::impair::{Burst, Cable, Impairment, Script};
use dts_tests::lab::{Lab, Setup};
use dts_tests::stacks::bed::{Bed, Load, OVERLAY};
fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let get = |k: &str, d: f64| -> f64 {
        args.iter()
            .find_map(|a| a.strip_prefix(&format!("{k}=")).map(|v| v.parse().unwrap()))
            .unwrap_or(d)
    };
    let overlay: &'static str = if get("fo", 1.0) == 1.0 {
        OVERLAY
    } else {
        "POLICY=designated\nDESIGNATED=1\nFASTOPEN=0\n"
    };
    let lab = Lab::up(&Setup {
        prefix: "dtsm",
        overlay,
        client: "",
        scratch: "/tmp/t-matrix/tmp",
    })
    .unwrap();
    for _ in 0..3 {
        let out = lab.exec(
            "client",
            &["ping", "-n", "-q", "-i", "0.01", "-c", "100", "10.77.0.2"],
        );
        println!("no relay: {}", out.lines().last().unwrap());
    }
    let mut bed = Bed::new(&lab);
    for _ in 0..3 {
        println!("relay: ping {:.0} us", bed.ping_us(100, "0.01"));
    }
    let base = Impairment {
        delay_us: (get("delay", 0.0) * 1000.0) as u64,
        ..Default::default()
    };
    let d = get("delay", 0.0);
    let mut cases: Vec<(&str, Impairment)> = vec![
        ("none", Impairment::default()),
        ("delay", base.clone()),
        (
            "jitter",
            Impairment {
                jitter_us: (d * 200.0) as u64,
                ..base.clone()
            },
        ),
        (
            "loss",
            Impairment {
                loss: 0.01,
                ..base.clone()
            },
        ),
        (
            "reorder",
            Impairment {
                reorder: 0.05,
                ..base.clone()
            },
        ),
        (
            "dup",
            Impairment {
                duplicate: 0.01,
                ..base.clone()
            },
        ),
        (
            "corrupt",
            Impairment {
                corrupt: 0.001,
                ..base.clone()
            },
        ),
        (
            "burst",
            Impairment {
                burst: Some(Burst {
                    to_bad: 0.005,
                    to_good: 0.3,
                    bad_loss: 1.0,
                    good_loss: 0.0,
                }),
                ..base.clone()
            },
        ),
        (
            "flight",
            Impairment {
                script: Some(Script::LoseFlight),
                ..base.clone()
            },
        ),
        (
            "second",
            Impairment {
                script: Some(Script::SecondFirst {
                    by_us: (d * 200.0) as u64,
                }),
                ..base.clone()
            },
        ),
    ];
    if let Some(only) = args.iter().find_map(|a| a.strip_prefix("only=")) {
        cases.retain(|c| only.split(',').any(|o| o == c.0));
    }
    for (name, i) in cases {
        let script = i.script.is_some();
        let cable = if script {
            Cable {
                out: base.clone(),
                back: i.clone(),
            }
        } else {
            Cable::both(&i)
        };
        let load = Load {
            pairs: get("n", 30.0) as usize,
            parallel: get("p", 10.0) as usize,
            kind: "tcp",
            up: get("up", 65536.0) as usize,
            down: get("down", 262144.0) as usize,
        };
        let t = std::time::Instant::now();
        let pairs = bed.measure(get("seed", 1.0) as u64, &[("wire", cable)], &load);
        println!("== {name} {:.1}s", t.elapsed().as_secs_f64());
        let faults: Vec<_> = pairs
            .iter()
            .flat_map(|p| [p.service.fault(), p.direct.fault()])
            .flatten()
            .collect();
        println!("faults {} {:?}", faults.len(), faults.first());
        for w in 0..2 {
            let ms: Vec<_> = pairs
                .iter()
                .map(|p| if w == 0 { &p.service } else { &p.direct })
                .collect();
            let med = |f: &dyn Fn(&dts_tests::stacks::bed::Measured) -> f64| {
                let mut v: Vec<f64> = ms.iter().map(|m| f(m)).collect();
                v.sort_by(f64::total_cmp);
                format!(
                    "{:.2}/{:.2}/{:.2}/{:.2}",
                    v[0],
                    v[v.len() / 4],
                    v[v.len() / 2],
                    v[v.len() * 3 / 4]
                )
            };
            println!(
                "{} total {} first {} conn {} again {:?} needless {} lost {} srtt {} minrtt {} repaired {}",
                if w == 0 { "dts   " } else { "direct" },
                med(&|m| m.asked.total_ms),
                med(&|m| m.asked.first_byte_ms),
                med(&|m| m.asked.connect_ms),
                ms.iter().map(|m| m.again()).sum::<u64>(),
                format!(
                    "{}+{} after {:?}",
                    ms.iter().map(|m| m.flow.out.needless).sum::<u64>(),
                    ms.iter().map(|m| m.flow.back.needless).sum::<u64>(),
                    ms.iter()
                        .filter_map(|m| m.flow.out.needless_after_us)
                        .take(8)
                        .collect::<Vec<_>>()
                ),
                ms.iter()
                    .map(|m| m.flow.out.lost + m.flow.back.lost)
                    .sum::<u64>(),
                med(&|m| m
                    .served
                    .as_ref()
                    .map_or(0.0, |s| f64::from(s.srtt_us) / 1000.0)),
                med(&|m| m
                    .served
                    .as_ref()
                    .map_or(0.0, |s| f64::from(s.min_rtt_us) / 1000.0)),
                med(&|m| m.flow.back.repaired_us.unwrap_or(0) as f64 / 1000.0)
            );
        }
        let r = bed.rig().report("wire");
        let hs: Vec<u64> = lab
            .handovers(1)
            .iter()
            .take(load.pairs)
            .map(|h| h.duration_us)
            .collect();
        let mut hs2 = hs.clone();
        hs2.sort_unstable();
        println!(
            "handover us p50 {:?} max {:?}",
            hs2.get(hs2.len() / 2),
            hs2.last()
        );
        println!(
            "late p50 {} p99 {} max {} us",
            r.late_p50_us, r.late_p99_us, r.late_max_us
        );
    }
}
