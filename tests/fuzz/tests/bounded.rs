//! Every target over its corpus, then over random and mutated inputs: the same ones
//! in every run unless `DTS_FUZZ_SEED` says otherwise, `DTS_FUZZ_ROUNDS` times as
//! many as usual if it is set. `DTS_FUZZ_INPUT` names one file to be run instead.

use dts_fuzz::{TARGETS, Target};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

/// xorshift64*, Vigna 2016.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() >> 33) as usize % n.max(1)
    }
}

fn corpus(target: &Target) -> Vec<(PathBuf, Vec<u8>)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(target.name);
    let files = std::fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    let mut files: Vec<PathBuf> = files.map(|f| f.expect("a file").path()).collect();
    files.sort();
    let read = |p: PathBuf| {
        let bytes = std::fs::read(&p).expect("a readable file");
        (p, bytes)
    };
    files.into_iter().map(read).collect()
}

/// A new input: an old one changed, two of them joined, or noise.
fn input(r: &mut Random, seeds: &[(PathBuf, Vec<u8>)], max: usize) -> Vec<u8> {
    let mut v = match r.below(8) {
        0 => (0..r.below(max)).map(|_| r.next() as u8).collect(),
        1 => {
            let (a, b) = (
                &seeds[r.below(seeds.len())].1,
                &seeds[r.below(seeds.len())].1,
            );
            [&a[..r.below(a.len() + 1)], &b[r.below(b.len() + 1)..]].concat()
        }
        _ => seeds[r.below(seeds.len())].1.clone(),
    };
    for _ in 0..r.below(6) {
        let at = r.below(v.len());
        match r.below(5) {
            0 if !v.is_empty() => v[at] = r.next() as u8,
            1 if !v.is_empty() => v[at] ^= 1 << r.below(8),
            2 => v.insert(at, r.next() as u8),
            3 if !v.is_empty() => {
                v.remove(at);
            }
            _ => {
                let from = r.below(v.len());
                let part = v[from..(from + r.below(32)).min(v.len())].to_vec();
                v.splice(at..at, part);
            }
        }
    }
    v.truncate(max);
    v
}

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |v| v.parse().expect("a number"))
}

fn bounded(name: &str) {
    let target = TARGETS.iter().find(|t| t.name == name).expect("a target");
    if let Some(path) = std::env::var_os("DTS_FUZZ_INPUT") {
        return (target.run)(&std::fs::read(path).expect("the file of DTS_FUZZ_INPUT"));
    }
    let seeds = corpus(target);
    assert!(!seeds.is_empty(), "no corpus for {name}");
    for (path, bytes) in &seeds {
        if catch_unwind(AssertUnwindSafe(|| (target.run)(bytes))).is_err() {
            panic!("{name} fails on {}", path.display());
        }
    }
    let seed = number("DTS_FUZZ_SEED", 1).max(1);
    let rounds = u64::from(target.rounds) * number("DTS_FUZZ_ROUNDS", 1);
    let mut r = Random(seed);
    for round in 0..rounds {
        let bytes = input(&mut r, &seeds, target.max_len);
        if catch_unwind(AssertUnwindSafe(|| (target.run)(&bytes))).is_err() {
            let path = std::env::temp_dir().join(format!("dts-fuzz-{name}-{seed}-{round}"));
            std::fs::write(&path, &bytes).expect("a file for the input");
            panic!("{name} fails on {} (seed {seed})", path.display());
        }
    }
    println!("{name}: {} of the corpus, {rounds} others", seeds.len());
}

macro_rules! targets {
    ($($(#[$cfg:meta])? $name:ident)*) => {
        $($(#[$cfg])? #[test] fn $name() { bounded(stringify!($name)); })*

        #[test]
        fn every_target_has_its_test() {
            let here = [$($(#[$cfg])? stringify!($name)),*];
            let there: Vec<&str> = TARGETS.iter().map(|t| t.name).collect();
            assert_eq!(here[..], there[..]);
        }
    };
}

targets! {
    pipeline tcp_options block rpc config
    #[cfg(feature = "inspectors")] http
    #[cfg(feature = "inspectors")] tls
    wire
}
