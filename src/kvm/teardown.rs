//! Closing a VM without waiting for it.
//!
//! The last close of a VM with an interrupt controller waits for several SRCU grace periods,
//! 12 to 24 ms on a kernel with 250 Hz ticks, and a process does not count as ended before. An
//! io_uring instance that holds the descriptors as registered files is itself torn down by a
//! kernel worker after the process is gone; so is what it holds.

use std::os::fd::AsRawFd;

use io_uring::IoUring;
use kvm_ioctls::VcpuFd;
use tracing::debug;

use super::Vm;

/// Leaves the VM and its vCPUs to the kernel: they are closed soon after this process ends,
/// which does not wait for it. Call this last.
///
/// Where io_uring is not to be had they are closed on exit, as ever.
pub fn close_after_exit(vm: &Vm, vcpus: &[VcpuFd]) {
    let mut fds = vec![vm.fd().as_raw_fd()];
    fds.extend(vcpus.iter().map(AsRawFd::as_raw_fd));
    let held = IoUring::new(1).and_then(|ring| {
        ring.submitter().register_files(&fds)?;
        Ok(ring)
    });
    match held {
        // The ring has to live until the process ends.
        Ok(ring) => std::mem::forget(ring),
        Err(e) => debug!("the VM is closed on exit, without io_uring: {e}"),
    }
}
