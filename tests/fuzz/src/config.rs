//! Configuration files of the daemon and of the proxy: any file is read, or
//! refused in one line that names the file.

use std::cell::OnceCell;
use std::path::PathBuf;

/// Runs one file. Text that speaks of a file of its own (`key_file`) is left to
/// the tests: an input must not read this machine.
pub fn run(data: &[u8]) {
    if data.windows(8).any(|w| w == b"key_file") {
        return;
    }
    match std::str::from_utf8(data) {
        Ok(text) => {
            one_line(dts_config::parse(text, "t.yaml"));
            #[cfg(feature = "inspectors")]
            one_line(dts_proxy::config::parse(text, "t.yaml"));
        }
        Err(_) => from_file(data),
    }
}

fn one_line<T, E: std::fmt::Display>(read: Result<T, E>) {
    if let Err(error) = read {
        let message = error.to_string();
        assert_eq!(message.lines().count(), 1, "{message:?}");
        assert!(message.starts_with("t.yaml:"), "{message:?}");
    }
}

thread_local! {
    static FILE: OnceCell<PathBuf> = const { OnceCell::new() };
}

/// What is no text at all reaches the reader by a file only.
fn from_file(data: &[u8]) {
    FILE.with(|path| {
        let path = path.get_or_init(|| {
            let thread = std::thread::current().id();
            std::env::temp_dir().join(format!("dts-fuzz-{}-{thread:?}", std::process::id()))
        });
        std::fs::write(path, data).expect("a temporary file");
        let read = dts_config::load(path);
        std::fs::remove_file(path).expect("the file that was written");
        let message = read.expect_err("not UTF-8").to_string();
        assert_eq!(message.lines().count(), 1, "{message:?}");
    });
}
