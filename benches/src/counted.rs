//! The gate through which goes what `dts-instructions` counts.

/// Runs `f`. Callgrind counts between entering and leaving this function and nothing
/// else ([`GATE`]), so it must not be entered from within.
#[inline(never)]
pub fn counted<R>(f: impl FnOnce() -> R) -> R {
    // Without it the call is a jump to `f`, and the gate is never left.
    std::hint::black_box(f())
}

/// The gate's name to callgrind's `--toggle-collect`.
pub const GATE: &str = "dts_benches::counted::counted*";
