//! What a vCPU exit carries beyond what `kvm-ioctls` hands out.

// UNSAFETY: the exit record is a union that the kernel fills; the exit reason says which member.
#![expect(unsafe_code)]

use std::fmt;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use kvm_bindings::{
    KVM_EXIT_FAIL_ENTRY, KVM_EXIT_HLT, KVM_EXIT_INTERNAL_ERROR, KVM_EXIT_IO, KVM_EXIT_IO_OUT,
    KVM_EXIT_MMIO, KVM_EXIT_SHUTDOWN, KVM_EXIT_SYSTEM_EVENT, kvm_run,
};
use kvm_ioctls::VcpuFd;

/// A port access as one exit reports it: `count` elements of `size` bytes at one port.
pub(super) struct PortIo<'a> {
    pub(super) port: u16,
    pub(super) out: bool,
    pub(super) elements: std::slice::ChunksExactMut<'a, u8>,
}

/// Decodes a `KVM_EXIT_IO`; `None` for another exit, or a record that does not add up.
pub(super) fn port_io(fd: &mut VcpuFd, run_size: usize) -> Option<PortIo<'_>> {
    let run = fd.get_kvm_run();
    if run.exit_reason != KVM_EXIT_IO {
        return None;
    }
    // SAFETY: the exit reason names the member `io`.
    let io = unsafe { run.__bindgen_anon_1.io };
    let size = usize::from(io.size);
    let len = size.checked_mul(usize::try_from(io.count).ok()?)?;
    let offset = usize::try_from(io.data_offset).ok()?;
    if size == 0 || offset.checked_add(len)? > run_size {
        return None;
    }
    // SAFETY: `offset..offset + len` lies inside the `run_size` bytes that are mapped at `run`
    // for the life of `fd`, whose unique borrow the result keeps.
    let data = unsafe {
        std::slice::from_raw_parts_mut(std::ptr::from_mut(run).cast::<u8>().add(offset), len)
    };
    Some(PortIo {
        port: io.port,
        out: u32::from(io.direction) == KVM_EXIT_IO_OUT,
        elements: data.chunks_exact_mut(size),
    })
}

/// The byte that makes KVM_RUN return at once (`kvm_run.immediate_exit`), for other threads.
///
/// The caller sees to it that `fd` outlives every use of the result.
pub(super) fn immediate_exit(fd: &mut VcpuFd) -> *const AtomicU8 {
    (&raw const fd.get_kvm_run().immediate_exit).cast::<AtomicU8>()
}

/// Stores to the byte that [`immediate_exit`] found.
///
/// # Safety
/// The vCPU that `byte` came from still exists.
pub(super) unsafe fn set_immediate_exit(byte: *const AtomicU8, value: u8) {
    // SAFETY: by the caller's promise the shared mapping is there; the kernel and both threads
    // access the byte atomically.
    unsafe { &*byte }.store(value, Ordering::SeqCst);
}

/// The detail of an exit that ends the machine, in words.
pub(super) fn describe(run: &kvm_run) -> String {
    match run.exit_reason {
        KVM_EXIT_INTERNAL_ERROR => {
            // SAFETY: the exit reason names the member `internal`.
            let error = unsafe { run.__bindgen_anon_1.internal };
            let what = match error.suberror {
                1 => "an instruction that KVM cannot emulate",
                2 => "simultaneous exceptions",
                3 => "an exit while an event was delivered",
                4 => "an exit reason unknown to KVM",
                _ => "an unknown cause",
            };
            let data: Vec<String> =
                error.data.iter().take(4).map(|word| format!("{word:#x}")).collect();
            format!("internal error {} ({what}), data {}", error.suberror, data.join(" "))
        }
        KVM_EXIT_FAIL_ENTRY => {
            // SAFETY: the exit reason names the member `fail_entry`.
            let entry = unsafe { run.__bindgen_anon_1.fail_entry };
            format!("hardware refused the entry, reason {:#x}", entry.hardware_entry_failure_reason)
        }
        reason => format!("unexpected exit {reason}"),
    }
}

/// The latest exit of a vCPU to this process, kept for explanations: one store per exit.
#[derive(Debug, Default)]
pub struct LastExit(AtomicU64);

impl LastExit {
    pub(super) fn port(&self, port: u16) {
        self.set(KVM_EXIT_IO, port.into());
    }

    pub(super) fn mmio(&self, addr: u64) {
        self.set(KVM_EXIT_MMIO, addr);
    }

    pub(super) fn other(&self, reason: u32) {
        self.set(reason, 0);
    }

    fn set(&self, reason: u32, detail: u64) {
        // Guest physical addresses end below 2^52; the reason and a mark take the rest.
        self.0
            .store(1 << 63 | u64::from(reason) << 52 | detail & ((1 << 52) - 1), Ordering::Relaxed);
    }
}

impl fmt::Display for LastExit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = self.0.load(Ordering::Relaxed);
        let detail = word & ((1 << 52) - 1);
        match u32::try_from(word >> 52 & 0x7ff).unwrap_or(0) {
            _ if word == 0 => write!(f, "none"),
            KVM_EXIT_IO => write!(f, "access to port {detail:#x}"),
            KVM_EXIT_MMIO => write!(f, "access to address {detail:#x}"),
            KVM_EXIT_HLT => write!(f, "halt"),
            KVM_EXIT_SHUTDOWN => write!(f, "shutdown (triple fault)"),
            KVM_EXIT_SYSTEM_EVENT => write!(f, "call to power off or reset"),
            KVM_EXIT_FAIL_ENTRY => write!(f, "failed entry"),
            KVM_EXIT_INTERNAL_ERROR => write!(f, "KVM internal error"),
            reason => write!(f, "KVM exit reason {reason}"),
        }
    }
}
