//! Many transfers of one thread under way at a time, by Linux's asynchronous I/O (io_submit(2)): it
//! costs a guest little, and its smallest kernel has it.

// UNSAFETY: no safe interface knows these system calls.
#![expect(unsafe_code)]

use std::fs::File;
use std::io;
use std::mem::zeroed;
use std::os::fd::AsRawFd;
use std::ptr::null_mut;

use anyhow::{Context as _, Result, ensure};

use super::guest::Aligned;

/// What a transfer does (`IOCB_CMD_PREAD`, `IOCB_CMD_PWRITE` of linux/aio_abi.h).
const READ: u16 = 0;
const WRITE: u16 = 1;

/// `struct io_event` (linux/aio_abi.h).
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
struct Event {
    data: u64,
    object: u64,
    result: i64,
    result2: i64,
}

/// The kernel's side. Its end waits for all that is under way.
struct Ring(libc::c_ulong);

impl Ring {
    fn new(depth: usize) -> io::Result<Self> {
        let mut ring: libc::c_ulong = 0;
        let depth = libc::c_long::try_from(depth).unwrap_or(libc::c_long::MAX);
        // SAFETY: the call writes one number, to where it is told.
        checked(unsafe { libc::syscall(libc::SYS_io_setup, depth, &raw mut ring) })?;
        Ok(Self(ring))
    }

    /// Has `transfers` begun; how many were.
    ///
    /// # Safety
    /// The buffers they name live and are used by nobody else until they are done.
    unsafe fn submit(&self, transfers: &mut [*mut libc::iocb]) -> io::Result<usize> {
        let (count, list) = (transfers.len(), transfers.as_mut_ptr());
        // SAFETY: the list has as many pointers as it says, all to transfers that live.
        checked(unsafe { libc::syscall(libc::SYS_io_submit, self.0, count, list) })
    }

    /// Waits until one is done at least; how many of `events` were filled in.
    fn wait(&self, events: &mut [Event]) -> io::Result<usize> {
        let (count, list) = (events.len(), events.as_mut_ptr());
        let forever = null_mut::<libc::timespec>();
        // SAFETY: the kernel writes at most as many events as there is room for.
        checked(unsafe {
            libc::syscall(libc::SYS_io_getevents, self.0, 1_usize, count, list, forever)
        })
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: the ring is ours and used no more.
        unsafe { libc::syscall(libc::SYS_io_destroy, self.0) };
    }
}

fn checked(result: libc::c_long) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Reads or writes `length` bytes at each place that `next` names, `depth` at a time, until it names
/// none and all is done; how many there were.
///
/// # Errors
/// A transfer failed, or moved less.
pub(super) fn perform(
    disk: &File,
    write: bool,
    (length, depth): (usize, usize),
    mut next: impl FnMut() -> Option<u64>,
) -> Result<u64> {
    let mut buffers: Vec<_> = (0..depth).map(|_| Aligned::new(length)).collect();
    let mut transfers: Vec<_> = buffers
        .iter_mut()
        .zip(0..)
        .map(|(buffer, index)| transfer(disk, write, buffer.bytes(), index))
        .collect();
    let mut events = vec![Event::default(); depth];
    let mut free: Vec<usize> = (0..depth).collect();
    // Declared last: it ends, and with it all that is under way, before the buffers do.
    let ring = Ring::new(depth).context("set up asynchronous I/O")?;
    let mut count = 0;
    loop {
        let mut batch = vec![];
        while let Some((index, offset)) =
            free.last().copied().and_then(|index| Some((index, next()?)))
        {
            let transfer = transfers.get_mut(index).context("a slot")?;
            transfer.aio_offset = i64::try_from(offset)?;
            batch.push(&raw mut *transfer);
            free.pop();
        }
        let mut begun = 0;
        while let Some(rest) = batch.get_mut(begun..).filter(|rest| !rest.is_empty()) {
            // SAFETY: the buffers are nobody else's and outlive the ring.
            begun += unsafe { ring.submit(rest) }.context("begin transfers")?;
        }
        if free.len() == depth {
            return Ok(count);
        }
        let done = ring.wait(&mut events).context("wait for transfers")?;
        for event in events.iter().take(done) {
            ensure!(event.result == i64::try_from(length)?, "a transfer came to {}", event.result);
            free.push(usize::try_from(event.data)?);
            count += 1;
        }
    }
}

/// A transfer between `disk` and `buffer`, still without a place; known by `index`.
fn transfer(disk: &File, write: bool, buffer: &mut [u8], index: u64) -> libc::iocb {
    // SAFETY: a structure of numbers, for which zero is a value.
    let mut transfer: libc::iocb = unsafe { zeroed() };
    transfer.aio_data = index;
    transfer.aio_lio_opcode = if write { WRITE } else { READ };
    transfer.aio_fildes = disk.as_raw_fd().cast_unsigned();
    transfer.aio_buf = buffer.as_mut_ptr().expose_provenance() as u64;
    transfer.aio_nbytes = buffer.len() as u64;
    transfer
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn every_place_is_written_once_and_counted() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let disk = File::options().read(true).write(true).open(file.path()).unwrap();
        let mut places = (0..100_u64).map(|place| place * 4096);
        assert_eq!(perform(&disk, true, (4096, 32), || places.next()).unwrap(), 100);
        assert_eq!(disk.metadata().unwrap().len(), 100 * 4096);
        let mut places = [0, 99 * 4096].into_iter();
        assert_eq!(perform(&disk, false, (4096, 32), || places.next()).unwrap(), 2);
    }

    #[test]
    fn short_transfer_is_an_error() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().write_all_at(&[1; 5000], 0).unwrap();
        let mut places = [0, 4096].into_iter();
        let error = perform(file.as_file(), false, (4096, 2), || places.next()).unwrap_err();
        assert!(error.to_string().contains("904"), "{error}");
    }
}
