//! What this node's TCP stack agrees to, by its sysctls (`tcp(7)`).

use dts_membership::TcpCaps;
use std::fs;
use std::path::Path;

/// Largest window shift (RFC 7323, section 2.3).
const SHIFT_MAX: u32 = 14;

/// Reads them; what cannot be read counts as Linux's default.
#[must_use]
pub fn read() -> TcpCaps {
    read_in(Path::new("/proc/sys/net"))
}

fn read_in(net: &Path) -> TcpCaps {
    let text = |name: &str| fs::read_to_string(net.join(name)).unwrap_or_default();
    let number = |name: &str, default: u64| text(name).trim().parse().unwrap_or(default);
    let buffers = text("ipv4/tcp_rmem");
    let largest = buffers.split_whitespace().nth(2);
    let largest = largest.and_then(|n| n.parse().ok()).unwrap_or(6_291_456);
    let scales = number("ipv4/tcp_window_scaling", 1) != 0;
    TcpCaps {
        timestamps: number("ipv4/tcp_timestamps", 1) != 0,
        sack: number("ipv4/tcp_sack", 1) != 0,
        window_shift: scales.then(|| shift(largest.max(number("core/rmem_max", 212_992)))),
    }
}

/// The least shift by which a window of `space` bytes fits into 16 bits (RFC 7323,
/// section 2.2).
fn shift(space: u64) -> u8 {
    let bits = u64::BITS - space.leading_zeros();
    bits.saturating_sub(16).min(SHIFT_MAX) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_of_the_whole_buffer_can_be_told() {
        let cases = [
            (0, 0),
            (65_535, 0),
            (65_536, 1),
            (6_291_456, 7),
            (u64::MAX, 14),
        ];
        for (space, expected) in cases {
            assert_eq!(shift(space), expected, "{space}");
        }
    }

    #[test]
    fn sysctls_are_read_and_absent_ones_have_defaults() {
        let dir = tempfile::tempdir().unwrap();
        let default = TcpCaps {
            timestamps: true,
            sack: true,
            window_shift: Some(7),
        };
        assert_eq!(read_in(dir.path()), default);
        fs::create_dir_all(dir.path().join("ipv4")).unwrap();
        let put = |name: &str, value: &str| fs::write(dir.path().join(name), value).unwrap();
        put("ipv4/tcp_timestamps", "0\n");
        put("ipv4/tcp_rmem", "4096\t131072\t33554432\n");
        let now = read_in(dir.path());
        assert!(!now.timestamps && now.sack);
        assert_eq!(now.window_shift, Some(10));
        put("ipv4/tcp_window_scaling", "0\n");
        assert_eq!(read_in(dir.path()).window_shift, None);
    }
}
