//! Stands between pairs of interfaces and impairs what passes; see
//! `dts_tests::impair`. Arguments: NAME=INTERFACE:INTERFACE, one per cable.

use dts_tests::impair::relay::{Ends, Relay};
use std::process::ExitCode;

fn main() -> ExitCode {
    let run = || -> Result<(), String> {
        let cables: Result<Vec<Ends>, _> = std::env::args().skip(1).map(|a| a.parse()).collect();
        let mut relay = Relay::open(cables?).map_err(|e| e.to_string())?;
        relay.run().map_err(|e| e.to_string())
    };
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("impair: {error}");
            ExitCode::FAILURE
        }
    }
}
