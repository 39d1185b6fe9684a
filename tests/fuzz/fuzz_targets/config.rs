//! A target for libFuzzer, which calls what the library has.

#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| dts_fuzz::config::run(data));
