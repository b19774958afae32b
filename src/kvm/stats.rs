//! KVM's binary statistics of a vCPU (KVM API, section 4.133).

// UNSAFETY: kvm-ioctls has no call for KVM_GET_STATS_FD.
#![expect(unsafe_code)]

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::mem::size_of;
use std::os::fd::FromRawFd;
use std::os::unix::fs::FileExt;

use kvm_bindings::{KVMIO, kvm_stats_desc, kvm_stats_header};
use kvm_ioctls::VcpuFd;
use vmm_sys_util::ioctl::ioctl;
use vmm_sys_util::ioctl_io_nr;

ioctl_io_nr!(KVM_GET_STATS_FD, KVMIO, 0xce);

/// More statistics and longer names than any kernel has: a bound on what is read.
const MAX_STATS: usize = 1024;
const MAX_NAME: usize = 256;

/// `KVM_STATS_TYPE_CUMULATIVE`, in the bits of `KVM_STATS_TYPE_MASK`.
const TYPE_MASK: u32 = 0xf;
const CUMULATIVE: u32 = 0;

/// The counters of one vCPU, readable while it runs.
#[derive(Debug)]
pub struct VcpuStats {
    file: File,
    /// Name of each counter, and where it lies in the file.
    counters: Vec<(String, u64)>,
}

impl VcpuStats {
    /// Opens the statistics of `vcpu`, which must not be running.
    ///
    /// # Errors
    /// The kernel is older than 5.14, or no descriptor is to be had.
    pub fn open(vcpu: &VcpuFd) -> io::Result<Self> {
        // SAFETY: the call takes no argument and returns a new descriptor or -1.
        let fd = unsafe { ioctl(vcpu, KVM_GET_STATS_FD()) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new, and nobody else's.
        let file = unsafe { File::from_raw_fd(fd) };
        let counters = read_descriptions(&file)?;
        Ok(Self { file, counters })
    }

    /// Adds the counters to those of other vCPUs.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn add_to(&self, sums: &mut BTreeMap<String, u64>) -> io::Result<()> {
        for (name, offset) in &self.counters {
            let mut value = [0; 8];
            self.file.read_exact_at(&mut value, *offset)?;
            let sum = sums.entry(name.clone()).or_default();
            *sum = sum.wrapping_add(u64::from_ne_bytes(value));
        }
        Ok(())
    }
}

/// Finds the single cumulative counters; histograms and instant values are left out.
fn read_descriptions(file: &File) -> io::Result<Vec<(String, u64)>> {
    let mut header = [0; size_of::<kvm_stats_header>()];
    file.read_exact_at(&mut header, 0)?;
    // flags, name_size, num_desc, id_offset, desc_offset, data_offset: 32 bits each.
    let [_, name_size, count, _, descriptions, data] = words::<6>(&header);
    let (name_size, count) = (index(name_size), index(count));
    if name_size > MAX_NAME || count > MAX_STATS {
        return Err(io::Error::other("the statistics of KVM have an unknown form"));
    }
    let mut block = vec![0; count * (size_of::<kvm_stats_desc>() + name_size)];
    file.read_exact_at(&mut block, descriptions.into())?;
    let mut counters = Vec::new();
    for entry in block.chunks_exact(size_of::<kvm_stats_desc>() + name_size) {
        let (fixed, name) = entry.split_at(size_of::<kvm_stats_desc>());
        // flags, exponent and size (16 bits each), offset, bucket_size.
        let [flags, shape, offset, _] = words::<4>(fixed);
        if flags & TYPE_MASK == CUMULATIVE && shape.to_ne_bytes()[2..] == 1u16.to_ne_bytes() {
            let name = name.split(|b| *b == 0).next().unwrap_or_default();
            let name = String::from_utf8_lossy(name).into_owned();
            counters.push((name, u64::from(data) + u64::from(offset)));
        }
    }
    Ok(counters)
}

fn words<const N: usize>(bytes: &[u8]) -> [u32; N] {
    let mut words = [0; N];
    for (word, bytes) in words.iter_mut().zip(bytes.as_chunks().0) {
        *word = u32::from_ne_bytes(*bytes);
    }
    words
}

fn index(n: u32) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use kvm_ioctls::Kvm;

    use super::*;

    #[test]
    fn vcpu_that_never_ran_has_made_no_exit() {
        let vm = Kvm::new().unwrap().create_vm().unwrap();
        let vcpu = vm.create_vcpu(0).unwrap();
        let stats = VcpuStats::open(&vcpu).unwrap();
        let mut sums = BTreeMap::new();
        stats.add_to(&mut sums).unwrap();
        stats.add_to(&mut sums).unwrap();
        assert_eq!(sums.get("exits"), Some(&0), "{sums:?}");
        assert!(sums.len() > 10, "{sums:?}");
        assert!(sums.keys().all(|name| name.bytes().all(|b| b.is_ascii_graphic())), "{sums:?}");
    }
}
