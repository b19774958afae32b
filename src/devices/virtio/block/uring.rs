//! Transfers that are under way while the thread does something else, by io_uring(7).

// UNSAFETY: the kernel is handed pointers to guest memory that it uses until a request completes.
#![expect(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use io_uring::squeue::Entry;
use io_uring::types::{CancelBuilder, Fd, FsyncFlags};
use io_uring::{IoUring, opcode};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;
use vm_memory::{GuestMemoryBackend, GuestMemoryError};

use super::files::Files;
use crate::memory::{GuestMemory, GuestRange};

/// Entries of the submission queue: what is submitted at a time.
const ENTRIES: u32 = 128;
/// Slots keep the room for so many vectors when they are free.
const KEPT_VECTORS: usize = 16;
/// How often a kernel that takes no requests for now is asked again.
const TRIES: u32 = 1000;
/// How long a drain waits before it looks again.
const LOOK: Duration = Duration::from_millis(100);
/// How long the end of a device waits for its transfers: a machine may have many that hang.
const PATIENCE: Duration = Duration::from_millis(50);

/// FUSE_SUPER_MAGIC of Linux: a file system in user space.
const FUSE: u64 = 0x6573_5546;

/// The completion of what is no slot's.
const SYNC: u64 = 1 << 32;
const CANCEL: u64 = 1 << 33;

/// What a slot is to do; offsets are bytes of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    /// Fill the slot's buffers from `offset` on.
    Read { offset: u64 },
    /// Write the slot's buffers from `offset` on.
    Write { offset: u64 },
}

/// What has completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Completed {
    /// The operation of this slot.
    Slot(usize),
    /// The sync.
    Sync,
}

/// A ring, and the buffers of what is under way in it.
///
/// Dropping it waits a moment for what is under way; what the host does not finish by then is left
/// to the end of the process.
pub(super) struct Ring {
    /// `None` only while it is dropped.
    inner: Option<Box<Inner>>,
    event: OwnedFd,
}

struct Inner {
    ring: IoUring,
    files: Arc<Files>,
    /// Keeps the memory mapped that the kernel writes to.
    mem: Option<GuestMemory>,
    slots: Vec<Slot>,
    /// Operations, syncs and cancellations that have not completed.
    under_way: usize,
}

#[derive(Default)]
struct Slot {
    /// Fixed from the submission of an operation to its completion.
    vectors: Vec<libc::iovec>,
    /// Vectors that are done.
    done: usize,
    busy: bool,
}

// SAFETY: the vectors of a slot are addresses for the kernel alone; no thread follows them.
unsafe impl Send for Inner {}

impl Ring {
    /// A ring for `slots` operations on `files` at a time.
    ///
    /// # Errors
    /// The kernel has no io_uring, refuses it, has no room for it, or would not do right by `files`.
    pub(super) fn new(files: &Arc<Files>, slots: usize) -> io::Result<Self> {
        refuse_fuse(files.cached())?;
        let event = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        let room = u32::try_from(slots + 2).unwrap_or(u32::MAX).next_power_of_two();
        let mut builder = IoUring::builder();
        builder.dontfork().setup_cqsize(room.max(ENTRIES));
        // Linux 5.19 does not interrupt this process for a completion.
        let ring = builder.clone().setup_coop_taskrun().build(ENTRIES);
        let ring = ring.or_else(|_| builder.build(ENTRIES))?;
        ring.submitter().register_eventfd(event.as_raw_fd())?;
        let slots = (0..slots).map(|_| Slot::default()).collect();
        let inner = Inner { ring, files: files.clone(), mem: None, slots, under_way: 0 };
        Ok(Self { inner: Some(Box::new(inner)), event })
    }

    /// Can be read when something has completed.
    pub(super) fn event(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    /// Has [`Ring::event`] wait for the next completion. What completed before is to be asked for
    /// afterwards.
    pub(super) fn clear_event(&self) {
        // Fails when it is clear already.
        let _ = rustix::io::read(&self.event, &mut [0; 8]);
    }

    fn inner(&mut self) -> Option<&mut Inner> {
        self.inner.as_deref_mut()
    }

    /// Uses `mem` from now on. Nothing may be under way.
    pub(super) fn set_memory(&mut self, mem: &GuestMemory) {
        if let Some(inner) = self.inner() {
            inner.set_memory(mem);
        }
    }

    /// Gives the free slot `slot` the buffers `ranges`.
    ///
    /// # Errors
    /// A range that is not inside one region of guest memory.
    pub(super) fn set_buffers(
        &mut self,
        slot: usize,
        ranges: &[GuestRange],
    ) -> Result<(), GuestMemoryError> {
        let Some(inner) = self.inner() else { return Ok(()) };
        let Inner { mem, slots, .. } = inner;
        let slot = slots.get_mut(slot).filter(|slot| !slot.busy);
        let (Some(mem), Some(slot)) = (mem, slot) else { return Ok(()) };
        slot.vectors.clear();
        slot.done = 0;
        for range in ranges {
            let len = usize::try_from(range.len).unwrap_or(usize::MAX);
            let part = mem.get_slice(range.addr, len)?;
            let iov_base = part.ptr_guard_mut().as_ptr().cast();
            slot.vectors.push(libc::iovec { iov_base, iov_len: part.len() });
        }
        Ok(())
    }

    /// Gives back what the free slot `slot` needed only for many buffers.
    pub(super) fn release(&mut self, slot: usize) {
        if let Some(slot) = self.inner().and_then(|inner| inner.free(slot)) {
            slot.vectors.clear();
            slot.vectors.shrink_to(KEPT_VECTORS);
        }
    }

    /// Takes `moved` bytes off the front of the buffers of `slot`, which must be free.
    pub(super) fn advance(&mut self, slot: usize, mut moved: usize) {
        let Some(slot) = self.inner().and_then(|inner| inner.free(slot)) else { return };
        while let Some(vector) = slot.vectors.get_mut(slot.done) {
            let by = moved.min(vector.iov_len);
            vector.iov_base = vector.iov_base.wrapping_byte_add(by);
            vector.iov_len -= by;
            moved -= by;
            if vector.iov_len > 0 {
                return;
            }
            slot.done += 1;
        }
    }

    /// Begins `operation` on `slot`, at the next [`Ring::submit`].
    ///
    /// # Errors
    /// The kernel takes no requests.
    pub(super) fn start(&mut self, slot: usize, operation: Operation) -> io::Result<()> {
        match self.inner() {
            Some(inner) => inner.start(slot, operation),
            None => Ok(()),
        }
    }

    /// Begins to make completed writes durable, at the next [`Ring::submit`].
    ///
    /// # Errors
    /// The kernel takes no requests.
    pub(super) fn start_sync(&mut self) -> io::Result<()> {
        let Some(inner) = self.inner() else { return Ok(()) };
        let sync =
            opcode::Fsync::new(Fd(inner.files.cached().as_raw_fd())).flags(FsyncFlags::DATASYNC);
        inner.push(&sync.build().user_data(SYNC))
    }

    /// Hands what was begun to the kernel, in one call.
    ///
    /// # Errors
    /// The kernel takes no requests.
    pub(super) fn submit(&mut self) -> io::Result<()> {
        self.inner().map_or(Ok(()), Inner::submit)
    }

    /// Whether something has completed already.
    pub(super) fn has_next(&mut self) -> bool {
        self.inner().is_some_and(|inner| !inner.ring.completion().is_empty())
    }

    /// The next completion: how many bytes were moved, or why none.
    pub(super) fn next(&mut self) -> Option<(Completed, Result<usize, Errno>)> {
        self.inner()?.next()
    }

    /// Cancels what is under way and waits until nothing is: from then on the kernel touches no
    /// buffer. What cannot be cancelled is waited for as long as it takes.
    pub(super) fn drain(&mut self) {
        self.drain_until(None);
    }

    /// As [`Ring::drain`], until `deadline`; whether nothing is under way.
    fn drain_until(&mut self, deadline: Option<Instant>) -> bool {
        let Some(inner) = self.inner.as_deref_mut() else { return true };
        inner.cancel();
        while inner.under_way > 0 {
            if deadline.is_some_and(|deadline| Instant::now() > deadline) {
                return false;
            }
            // What could not be submitted has to be, or it never completes.
            let submitted = inner.submit();
            let _ = rustix::io::read(&self.event, &mut [0; 8]);
            while inner.next().is_some() {}
            if inner.under_way > 0 {
                wait_readable(self.event.as_fd(), if submitted.is_ok() { LOOK } else { LOOK / 10 });
            }
        }
        inner.mem = None;
        true
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        if !self.drain_until(Some(Instant::now() + PATIENCE)) {
            // The kernel may yet use the buffers: they, and the memory they are in, stay.
            std::mem::forget(self.inner.take());
        }
    }
}

impl Inner {
    fn set_memory(&mut self, mem: &GuestMemory) {
        if self.under_way == 0 {
            self.slots.iter_mut().for_each(|slot| slot.busy = false);
            self.mem = Some(mem.clone());
        }
    }

    /// The slot `index`, unless the kernel has its buffers.
    fn free(&mut self, index: usize) -> Option<&mut Slot> {
        self.slots.get_mut(index).filter(|slot| !slot.busy)
    }

    fn start(&mut self, index: usize, operation: Operation) -> io::Result<()> {
        let slot = self.slots.get_mut(index).filter(|slot| !slot.busy);
        let Some(slot) = slot else { return Err(io::ErrorKind::ResourceBusy.into()) };
        let vectors = slot.vectors.get(slot.done..).unwrap_or_default();
        let (start, len) = (vectors.as_ptr(), u32::try_from(vectors.len()).unwrap_or(u32::MAX));
        let (Operation::Read { offset } | Operation::Write { offset }) = operation;
        let parts = vectors.iter().map(|vector| (vector.iov_base.addr(), vector.iov_len));
        let file = Fd(self.files.pick(offset, parts).as_raw_fd());
        let entry = match operation {
            Operation::Read { offset } => {
                opcode::Readv::new(file, start, len).offset(offset).build()
            }
            Operation::Write { offset } => {
                opcode::Writev::new(file, start, len).offset(offset).build()
            }
        };
        slot.busy = true;
        let data = u64::try_from(index).unwrap_or(u64::MAX);
        self.push(&entry.user_data(data))
    }

    fn cancel(&mut self) {
        if self.under_way > 0 {
            let cancel = opcode::AsyncCancel2::new(CancelBuilder::any()).build();
            // What is not cancelled is waited for.
            let _ = self.push(&cancel.user_data(CANCEL));
        }
    }

    fn push(&mut self, entry: &Entry) -> io::Result<()> {
        if self.ring.submission().is_full() {
            self.submit()?;
        }
        // SAFETY: the files stay open as long as `self`. A transfer's vectors belong to a slot that
        // is busy, and stay as they are until it is not: until the kernel has completed it. They
        // point into guest memory that `self.mem` keeps mapped; it is replaced only when nothing is
        // under way. `self` itself is dropped only then, and leaked otherwise.
        unsafe { self.ring.submission().push(entry) }.map_err(io::Error::other)?;
        self.under_way += 1;
        Ok(())
    }

    fn submit(&mut self) -> io::Result<()> {
        for _ in 0..TRIES {
            if self.ring.submission().is_empty() {
                return Ok(());
            }
            match self.ring.submit().map_err(|e| (Errno::from_io_error(&e), e)) {
                Ok(_) | Err((Some(Errno::INTR), _)) => {}
                Err((Some(Errno::AGAIN | Errno::BUSY | Errno::NOMEM), _)) => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err((_, e)) => return Err(e),
            }
        }
        Err(io::ErrorKind::TimedOut.into())
    }

    fn next(&mut self) -> Option<(Completed, Result<usize, Errno>)> {
        loop {
            let entry = self.ring.completion().next()?;
            self.under_way = self.under_way.saturating_sub(1);
            let result = match entry.result() {
                error @ ..0 => Err(Errno::from_raw_os_error(error.saturating_neg())),
                count => Ok(usize::try_from(count).unwrap_or(0)),
            };
            match entry.user_data() {
                CANCEL => {}
                SYNC => return Some((Completed::Sync, result)),
                data => {
                    let index = usize::try_from(data).ok()?;
                    let slot = self.slots.get_mut(index)?;
                    slot.busy = false;
                    return Some((Completed::Slot(index), result));
                }
            }
        }
    }
}

/// Linux (6.18, for one) goes on with a short read of a file in FUSE at the offset where that began:
/// `fuse_direct_IO` leaves the position of a request of io_uring as it is.
fn refuse_fuse(file: &OwnedFd) -> io::Result<()> {
    if u64::try_from(rustix::fs::fstatfs(file)?.f_type) == Ok(FUSE) {
        return Err(io::Error::other("it misplaces short reads of a file system in user space"));
    }
    Ok(())
}

fn wait_readable(event: BorrowedFd<'_>, patience: Duration) {
    let timeout = Timespec::try_from(patience).ok();
    // Interrupted or not: the caller looks again.
    let _ = poll(&mut [PollFd::from_borrowed_fd(event, PollFlags::IN)], timeout.as_ref());
}

#[cfg(test)]
mod tests;
