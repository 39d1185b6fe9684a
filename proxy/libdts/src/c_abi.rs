//! The C function: raw arguments to checked ones, an error to `errno`. The only
//! file of this crate with unsafe code.

use crate::request_handover as safe_request_handover;
use libc::{c_char, c_int, sockaddr, sockaddr_in, sockaddr_in6, socklen_t};
use std::mem::size_of;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::panic::catch_unwind;

/// The paper's figure 3; see `dts.h` for the meaning of arguments and `errno`.
///
/// # Safety
/// `dest` is null or points to `addrlen` readable bytes, and `request_buf` is
/// null or points to `buflen` readable bytes. `socket` stays open meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn request_handover(
    socket: c_int,
    dest: *const sockaddr,
    addrlen: socklen_t,
    request_buf: *const c_char,
    buflen: usize,
) -> c_int {
    let result = catch_unwind(|| {
        // SAFETY: the caller promises what `checked` asks for.
        let (socket, dest, request) =
            unsafe { checked(socket, dest, addrlen, request_buf, buflen) }?;
        safe_request_handover(&socket, dest, request).map_err(|error| error.errno())
    });
    // A panic would be a defect of this library; it must not unwind into C, and
    // nobody can tell then how far the request got.
    let errno = match result.unwrap_or(Err(libc::ECONNABORTED)) {
        Ok(_) => return 0,
        Err(errno) => errno,
    };
    // SAFETY: the C library's own pointer to this thread's errno.
    unsafe { *libc::__errno_location() = errno };
    -1
}

/// The arguments as safe values, or an errno.
///
/// # Safety
/// As for [`request_handover`]; the results must not outlive the call.
unsafe fn checked<'a>(
    socket: c_int,
    dest: *const sockaddr,
    addrlen: socklen_t,
    request_buf: *const c_char,
    buflen: usize,
) -> Result<(BorrowedFd<'a>, SocketAddr, &'a [u8]), c_int> {
    if socket < 0 {
        return Err(libc::EBADF);
    }
    // SAFETY: forwarded from the caller.
    let dest = unsafe { address(dest, addrlen) }?;
    let request = match (request_buf.is_null(), buflen) {
        (_, 0) => &[],
        (true, _) => return Err(libc::EINVAL),
        (false, len) if len > crate::MAX_REQUEST => return Err(libc::EOPNOTSUPP),
        // SAFETY: not null, and the caller promises `buflen` readable bytes;
        // any byte is a valid u8, and the length is below isize::MAX.
        (false, len) => unsafe { std::slice::from_raw_parts(request_buf.cast::<u8>(), len) },
    };
    // SAFETY: not -1, and the caller keeps it open during the call. A number
    // that is not open does no harm here: sendmsg reports EBADF.
    let socket = unsafe { BorrowedFd::borrow_raw(socket) };
    Ok((socket, dest, request))
}

/// # Safety
/// `dest` is null or points to `addrlen` readable bytes.
unsafe fn address(dest: *const sockaddr, addrlen: socklen_t) -> Result<SocketAddr, c_int> {
    let len = addrlen as usize;
    if dest.is_null() || len < size_of::<libc::sa_family_t>() {
        return Err(libc::EINVAL);
    }
    // SAFETY: the family is the first field, and it lies within `addrlen`; read
    // unaligned, because C callers cast from byte buffers.
    let family = unsafe { dest.cast::<libc::sa_family_t>().read_unaligned() };
    match c_int::from(family) {
        libc::AF_INET if len >= size_of::<sockaddr_in>() => {
            // SAFETY: `addrlen` covers the structure, which is plain numbers.
            let v4 = unsafe { dest.cast::<sockaddr_in>().read_unaligned() };
            let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
            Ok((ip, u16::from_be(v4.sin_port)).into())
        }
        libc::AF_INET6 if len >= size_of::<sockaddr_in6>() => {
            // SAFETY: `addrlen` covers the structure, which is plain numbers.
            let v6 = unsafe { dest.cast::<sockaddr_in6>().read_unaligned() };
            let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            Ok((ip, u16::from_be(v6.sin6_port)).into())
        }
        libc::AF_INET | libc::AF_INET6 => Err(libc::EINVAL),
        _ => Err(libc::EAFNOSUPPORT),
    }
}
