//! Fuzz targets: each takes any bytes and panics when a promise is broken.
//!
//! The same functions run in two ways. `tests/bounded.rs` replays the corpus and
//! runs random and mutated inputs for a fixed number of rounds, on any stable
//! toolchain. `make fuzz` builds the programs of `fuzz_targets/` for libFuzzer,
//! which is guided by coverage.

pub mod block;
pub mod config;
mod frames;
#[cfg(feature = "inspectors")]
pub mod http;
mod input;
#[cfg(feature = "inspectors")]
mod inspect;
pub mod pipeline;
pub mod rpc;
pub mod tcp_options;
#[cfg(feature = "inspectors")]
pub mod tls;
pub mod wire;

/// One target.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Name of its program (behind `fuzz_`) and of its folder in `corpus/`.
    pub name: &'static str,
    /// Runs one input.
    pub run: fn(&[u8]),
    /// Inputs of the bounded run, such that it takes about three seconds.
    pub rounds: u32,
    /// Longest input that is worth trying, bytes.
    pub max_len: usize,
}

/// Every target.
pub const TARGETS: &[Target] = &[
    Target {
        name: "pipeline",
        run: pipeline::run,
        rounds: 12_000,
        max_len: 1_500,
    },
    Target {
        name: "tcp_options",
        run: tcp_options::run,
        rounds: 800_000,
        max_len: 64,
    },
    Target {
        name: "block",
        run: block::run,
        rounds: 400_000,
        max_len: 400,
    },
    Target {
        name: "rpc",
        run: rpc::run,
        rounds: 400_000,
        max_len: 200,
    },
    Target {
        name: "config",
        run: config::run,
        rounds: 10_000,
        max_len: 8_000,
    },
    #[cfg(feature = "inspectors")]
    Target {
        name: "http",
        run: http::run,
        rounds: 100_000,
        max_len: 1_000,
    },
    #[cfg(feature = "inspectors")]
    Target {
        name: "tls",
        run: tls::run,
        rounds: 100_000,
        max_len: 800,
    },
    Target {
        name: "wire",
        run: wire::run,
        rounds: 400_000,
        max_len: 400,
    },
];
