//! What is shipped for service managers, as their own tools judge it.

use std::path::Path;
use std::process::Command;

/// Highest exposure that `systemd-analyze security` may find, in tenths.
const EXPOSURE_MOST: &str = "30";

fn analyze(arguments: &[&str], unit: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../deploy/systemd")
        .join(unit);
    let out = Command::new("systemd-analyze")
        .args(arguments)
        .arg(&path)
        .output()
        .expect("systemd-analyze");
    let said = [out.stdout, out.stderr].map(|b| String::from_utf8_lossy(&b).into_owned());
    assert!(out.status.success(), "{arguments:?} {unit}: {said:?}");
    said.concat()
}

#[test]
fn services_have_next_to_no_privileges() {
    let threshold = format!("--threshold={EXPOSURE_MOST}");
    for unit in ["dtsd.service", "dts-proxy.service"] {
        let said = analyze(
            &["security", "--offline=yes", "--no-pager", &threshold],
            unit,
        );
        assert!(said.contains("Overall exposure level"), "{said}");
    }
}

/// A service manager that does not know a setting says so and goes on without it.
#[test]
fn units_have_no_setting_that_systemd_does_not_know() {
    for unit in ["dtsd.service", "dts-proxy.service", "dts-devices.service"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../deploy/systemd")
            .join(unit);
        let out = Command::new("systemd-analyze")
            .args(["verify", "--man=no", "--recursive-errors=no"])
            .arg(&path)
            .output()
            .expect("systemd-analyze");
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        let ours = said.lines().filter(|l| l.contains(unit));
        // The programs are where the package puts them.
        let wrong: Vec<&str> = ours.filter(|l| !l.contains("is not executable")).collect();
        assert!(wrong.is_empty(), "{wrong:?}");
    }
}
