//! What a network device needs of the host.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::RawFd;

use rustix::io::Errno;

/// A host network that frames come from and go to.
///
/// Every frame, in both directions, is preceded by the 12 bytes of `struct virtio_net_hdr`
/// (virtio 1.3, section 5.1.6); `num_buffers` in it means nothing to the host.
pub trait Backend: Send {
    /// The descriptor that becomes readable when a frame waits. It stays the same and open.
    fn fd(&self) -> RawFd;

    /// The offload features of a virtio network device that this host network can carry.
    fn features(&self) -> u64;

    /// Hands the guest no frames that need an offload outside `features`, which the driver
    /// negotiated.
    ///
    /// # Errors
    /// What the host says; the guest then gets whole frames only.
    fn set_offloads(&mut self, features: u64) -> Result<(), Errno>;

    /// Attaches this connection to the host network, or detaches it: frames then go to the other
    /// connections of the device alone.
    ///
    /// # Errors
    /// What the host says.
    fn set_attached(&mut self, _attached: bool) -> Result<(), Errno> {
        Ok(())
    }

    /// Takes one waiting frame into `frame`, which the guest may look on, cutting off what does not fit; tells its length.
    ///
    /// # Errors
    /// [`Errno::AGAIN`] when none waits; it never blocks.
    fn receive(&mut self, frame: &mut [IoSliceMut<'_>]) -> Result<usize, Errno>;

    /// Whether the next frame would have to wait until [`Backend::fd`] can be written; a host
    /// network that rather loses frames never says so.
    fn congested(&mut self) -> bool {
        false
    }

    /// Sends one frame.
    ///
    /// # Errors
    /// Why it was not sent; it never blocks.
    fn send(&mut self, frame: &[IoSlice<'_>]) -> Result<(), Errno>;
}
