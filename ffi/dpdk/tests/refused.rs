//! An EAL that does not start, in a process of its own.

use dpdk::{Eal, Error, hotplug, log};

#[test]
fn says_why_it_does_not_start() {
    log::set_target(log::Target::Quiet);
    assert!(matches!(
        Eal::init(&["a\0b".to_owned()]),
        Err(Error::Nul(_))
    ));
    // Contradictory on every machine.
    let options = [
        "--no-huge",
        "--in-memory",
        "--huge-unlink",
        "-m",
        "32",
        "--no-pci",
        "-l",
        "4095",
    ];
    let options: Vec<String> = options.iter().map(|o| (*o).to_owned()).collect();
    let error = Eal::init(&options).unwrap_err().to_string();
    assert!(
        error.starts_with("the EAL did not start: ") && error.len() > 30,
        "{error}"
    );
    assert!(error.contains("core"), "{error}");
    assert!(matches!(
        hotplug::attach("net_null0"),
        Err(Error::NotRunning)
    ));
    assert!(matches!(
        Eal::init(&options),
        Err(Error::AlreadyInitialised)
    ));
}
