//! The `TCP_INFO` option of Linux.

use std::io;
use std::mem::{MaybeUninit, offset_of, size_of};
use std::os::fd::{AsFd, AsRawFd};

/// `struct tcp_info` of `include/uapi/linux/tcp.h`. The kernel only ever appends
/// to it, and copies as much as the caller has room for. The libc crate's version
/// ends before the byte counters.
#[repr(C)]
#[derive(Clone, Copy)]
struct Raw {
    state: u8,
    ca_state: u8,
    retransmits: u8,
    probes: u8,
    backoff: u8,
    options: u8,
    /// Two bit-fields of four bits: send, then receive window scale.
    wscale: u8,
    flags: u8,
    rto: u32,
    ato: u32,
    snd_mss: u32,
    rcv_mss: u32,
    unacked: u32,
    sacked: u32,
    lost: u32,
    retrans: u32,
    fackets: u32,
    last_data_sent: u32,
    last_ack_sent: u32,
    last_data_recv: u32,
    last_ack_recv: u32,
    pmtu: u32,
    rcv_ssthresh: u32,
    rtt: u32,
    rttvar: u32,
    snd_ssthresh: u32,
    snd_cwnd: u32,
    advmss: u32,
    reordering: u32,
    rcv_rtt: u32,
    rcv_space: u32,
    total_retrans: u32,
    pacing_rate: u64,
    max_pacing_rate: u64,
    bytes_acked: u64,
    bytes_received: u64,
    segs_out: u32,
    segs_in: u32,
    notsent_bytes: u32,
    min_rtt: u32,
    data_segs_in: u32,
    data_segs_out: u32,
    delivery_rate: u64,
    busy_time: u64,
    rwnd_limited: u64,
    sndbuf_limited: u64,
    delivered: u32,
    delivered_ce: u32,
    bytes_sent: u64,
    bytes_retrans: u64,
    dsack_dups: u32,
    reord_seen: u32,
    rcv_ooopack: u32,
    snd_wnd: u32,
}

/// The kernel must fill everything up to `snd_wnd`, which Linux does since 5.4.
const NEEDED: usize = size_of::<Raw>();

// The layout is the kernel's: these offsets are from a C compiler over
// linux/tcp.h of Linux 6.1.
const _: () = assert!(offset_of!(Raw, pacing_rate) == 104);
const _: () = assert!(offset_of!(Raw, bytes_received) == 128);
const _: () = assert!(offset_of!(Raw, notsent_bytes) == 144);
const _: () = assert!(offset_of!(Raw, bytes_sent) == 200);
const _: () = assert!(size_of::<Raw>() == 232);

/// A TCP connection's state, as the kernel numbers them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Both directions open.
    Established,
    /// SYN sent.
    SynSent,
    /// SYN received.
    SynRecv,
    /// Our FIN sent, not acknowledged.
    FinWait1,
    /// Our FIN acknowledged.
    FinWait2,
    /// Both closed, waiting for stray segments.
    TimeWait,
    /// No connection.
    Close,
    /// The peer's FIN received.
    CloseWait,
    /// The peer's FIN received, ours sent.
    LastAck,
    /// A listening socket.
    Listen,
    /// FINs crossed.
    Closing,
    /// A number that this crate does not know.
    Other(u8),
}

impl From<u8> for State {
    fn from(number: u8) -> State {
        match number {
            1 => State::Established,
            2 => State::SynSent,
            3 => State::SynRecv,
            4 => State::FinWait1,
            5 => State::FinWait2,
            6 => State::TimeWait,
            7 => State::Close,
            8 => State::CloseWait,
            9 => State::LastAck,
            10 => State::Listen,
            11 => State::Closing,
            other => State::Other(other),
        }
    }
}

/// TCP options that both ends agreed on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    /// Time stamps (RFC 7323).
    pub timestamps: bool,
    /// Selective acknowledgements (RFC 2018).
    pub sack: bool,
    /// Window scaling (RFC 7323).
    pub wscale: bool,
    /// Explicit congestion notification (RFC 3168).
    pub ecn: bool,
    /// Data in our SYN was acknowledged, or we accepted data in the peer's
    /// (RFC 7413).
    pub syn_data: bool,
}

/// What the kernel knows of a TCP connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpInfo {
    /// The connection's state.
    pub state: State,
    /// Sequence numbers received in order since the handshake. The peer's FIN
    /// counts as one: subtract it in the states after it. Its SYN does not.
    pub bytes_received: u64,
    /// Sequence numbers of ours that the peer acknowledged. Our SYN does not
    /// count on the accepting side and counts as one on the connecting side.
    pub bytes_acked: u64,
    /// Segments that were sent and not acknowledged.
    pub unacked: u32,
    /// Bytes that were written and not sent yet.
    pub notsent_bytes: u32,
    /// Shift of the peer's window field (RFC 7323), 0 to 14.
    pub snd_wscale: u8,
    /// Shift of our window field, 0 to 14.
    pub rcv_wscale: u8,
    /// Options in use.
    pub options: Options,
    /// Bytes of data per segment sent, options taken off.
    pub snd_mss: u32,
    /// The kernel's estimate of the peer's segment size, in bytes.
    pub rcv_mss: u32,
    /// Smoothed round-trip time in microseconds, 0 if never measured.
    pub rtt_us: u32,
    /// Smallest round-trip time in microseconds that was measured, `u32::MAX` if none.
    pub min_rtt_us: u32,
    /// Data segments that arrived out of order.
    pub rcv_ooopack: u32,
    /// Segments sent again since the start.
    pub total_retrans: u32,
}

/// Asks the kernel about a TCP socket.
///
/// # Errors
/// Not a TCP socket (`ENOPROTOOPT`, `EOPNOTSUPP` or `ENOTSOCK`); `Unsupported` on
/// a kernel that knows less than this crate reads (older than 5.4).
pub fn tcp_info(fd: impl AsFd) -> io::Result<TcpInfo> {
    let mut raw = MaybeUninit::<Raw>::zeroed();
    let mut len = size_of::<Raw>() as libc::socklen_t;
    // SAFETY: the buffer has `len` bytes and lives for the call; the descriptor
    // is borrowed.
    let code = unsafe {
        libc::getsockopt(
            fd.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            raw.as_mut_ptr().cast(),
            &mut len,
        )
    };
    if code != 0 {
        return Err(io::Error::last_os_error());
    }
    if (len as usize) < NEEDED {
        let text = format!("the kernel's TCP_INFO has {len} bytes, {NEEDED} are needed");
        return Err(io::Error::new(io::ErrorKind::Unsupported, text));
    }
    // SAFETY: integers only, all of them zeroed and then written by the kernel.
    Ok(TcpInfo::from(&unsafe { raw.assume_init() }))
}

impl From<&Raw> for TcpInfo {
    fn from(raw: &Raw) -> TcpInfo {
        // Values of TCPI_OPT_*.
        let option = |bit: u8| raw.options & bit != 0;
        // C bit-fields start at the low bits on little-endian machines and at the
        // high ones on big-endian.
        let (low, high) = (raw.wscale & 15, raw.wscale >> 4);
        let (snd_wscale, rcv_wscale) = if cfg!(target_endian = "little") {
            (low, high)
        } else {
            (high, low)
        };
        TcpInfo {
            state: State::from(raw.state),
            bytes_received: raw.bytes_received,
            bytes_acked: raw.bytes_acked,
            unacked: raw.unacked,
            notsent_bytes: raw.notsent_bytes,
            snd_wscale,
            rcv_wscale,
            options: Options {
                timestamps: option(1),
                sack: option(2),
                wscale: option(4),
                ecn: option(8),
                syn_data: option(32),
            },
            snd_mss: raw.snd_mss,
            rcv_mss: raw.rcv_mss,
            rtt_us: raw.rtt,
            min_rtt_us: raw.min_rtt,
            rcv_ooopack: raw.rcv_ooopack,
            total_retrans: raw.total_retrans,
        }
    }
}
