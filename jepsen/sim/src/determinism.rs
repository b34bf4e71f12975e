//! Takes chance and time away from the process: everything that asks the kernel for random bytes or for a clock gets
//! what follows from the seed.
//!
//! Hash maps, election timeouts and tokio's choices all end in `getrandom`, HTTP's date header in `clock_gettime`, and the
//! lock on a data directory holds what `getpid` says; so these are replaced here, for the whole program, by symbols of the
//! same names. Until [`begin`] they ask the kernel as ever.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use libc::{c_int, c_long, c_uint, c_void, clockid_t, size_t, ssize_t, timespec};

/// When every simulation begins, seconds since 1970; some Monday.
pub const EPOCH_SECONDS: u64 = 1_800_000_000;

static BEGUN: AtomicBool = AtomicBool::new(false);
static STATE: AtomicU64 = AtomicU64::new(0);
static NANOS: AtomicU64 = AtomicU64::new(0);

/// From now on everything follows from the seed. What threads have drawn before, such as the keys of their hash maps, stays:
/// the simulation must run on a thread made afterwards.
pub fn begin(seed: u64) {
    STATE.store(seed, Ordering::SeqCst);
    BEGUN.store(true, Ordering::SeqCst);
}

/// Moves the clocks that the kernel would show.
pub fn set_elapsed(elapsed: Duration) {
    NANOS.store(elapsed.as_nanos() as u64, Ordering::SeqCst);
}

/// splitmix64.
fn next() -> u64 {
    let mut mixed = STATE.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::SeqCst).wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// The kernel's call of the same name.
///
/// # Safety
/// As of the original: `buffer` has room for `len` bytes.
#[unsafe(no_mangle)]
unsafe extern "C" fn getrandom(buffer: *mut c_void, len: size_t, flags: c_uint) -> ssize_t {
    if !BEGUN.load(Ordering::SeqCst) {
        // SAFETY: the arguments are the caller's, for the same call.
        return unsafe { libc::syscall(libc::SYS_getrandom, buffer, len, flags) as ssize_t };
    }
    // SAFETY: the caller gave a buffer of this length.
    let bytes = unsafe { std::slice::from_raw_parts_mut(buffer.cast::<u8>(), len) };
    for chunk in bytes.chunks_mut(8) {
        chunk.copy_from_slice(&next().to_le_bytes()[..chunk.len()]);
    }
    len as ssize_t
}

/// The kernel's call of the same name.
///
/// # Safety
/// As of the original: `time` points to a timespec.
#[unsafe(no_mangle)]
unsafe extern "C" fn clock_gettime(clock: clockid_t, time: *mut timespec) -> c_int {
    if !BEGUN.load(Ordering::SeqCst) {
        // SAFETY: the arguments are the caller's, for the same call.
        return unsafe { libc::syscall(libc::SYS_clock_gettime, clock as c_long, time) as c_int };
    }
    let nanos = NANOS.load(Ordering::SeqCst);
    let now = timespec {
        tv_sec: (EPOCH_SECONDS + nanos / 1_000_000_000) as libc::time_t,
        tv_nsec: (nanos % 1_000_000_000) as c_long,
    };
    // SAFETY: the caller gave a place for it.
    unsafe { time.write(now) };
    0
}

/// The kernel's call of the same name; the lock on a data directory names the process.
#[unsafe(no_mangle)]
extern "C" fn getpid() -> libc::pid_t {
    if BEGUN.load(Ordering::SeqCst) {
        return 1;
    }
    // SAFETY: the call has no arguments and cannot fail.
    unsafe { libc::syscall(libc::SYS_getpid) as libc::pid_t }
}
