//! Processors, how they lie together, and their caches (bindings: arm/cpus.yaml, cpu/cpu-topology.txt; Devicetree
//! Specification 0.4, 3.8).

use vm_fdt::{Error, FdtWriter};

use super::super::caches::{Cache, Kind};
use super::{FIRST_CACHE, FIRST_CPU};

/// Processors that KVM gives one number of the lowest affinity level each.
const CLUSTER: u8 = 16;

/// The affinity of vCPU `index`, by which KVM and the guest name it: `MPIDR_EL1`, without the bits that are
/// none of its (Linux: arch/arm64/kvm/sys_regs.c, `reset_mpidr`).
pub(in crate::arch) fn affinity(index: u8) -> u32 {
    u32::from(index % CLUSTER) | u32::from(index / CLUSTER) << 8
}

pub(super) fn write(fdt: &mut FdtWriter, count: u8, caches: &[Cache]) -> Result<(), Error> {
    let far: Vec<_> = Far::of(caches, count);
    let node = fdt.begin_node("cpus")?;
    fdt.property_u32("#address-cells", 1)?;
    fdt.property_u32("#size-cells", 0)?;
    write_map(fdt, count)?;
    for index in 0..count {
        write_cpu(fdt, index, caches, far.first())?;
    }
    for (level, cache) in far.iter().enumerate() {
        cache.write(fdt, far.get(level.saturating_add(1)))?;
    }
    fdt.end_node(node)
}

/// Each processor is a core of its own, all of one socket.
fn write_map(fdt: &mut FdtWriter, count: u8) -> Result<(), Error> {
    let map = fdt.begin_node("cpu-map")?;
    let socket = fdt.begin_node("socket0")?;
    let cluster = fdt.begin_node("cluster0")?;
    for index in 0..count {
        let core = fdt.begin_node(&format!("core{index}"))?;
        fdt.property_u32("cpu", phandle(index))?;
        fdt.end_node(core)?;
    }
    fdt.end_node(cluster)?;
    fdt.end_node(socket)?;
    fdt.end_node(map)
}

fn phandle(index: u8) -> u32 {
    FIRST_CPU.saturating_add(index.into())
}

fn write_cpu(
    fdt: &mut FdtWriter,
    index: u8,
    caches: &[Cache],
    next: Option<&Far>,
) -> Result<(), Error> {
    let affinity = affinity(index);
    let node = fdt.begin_node(&format!("cpu@{affinity:x}"))?;
    fdt.property_string("device_type", "cpu")?;
    fdt.property_string("compatible", "arm,armv8")?;
    fdt.property_u32("reg", affinity)?;
    fdt.property_string("enable-method", "psci")?;
    for cache in caches.iter().filter(|cache| cache.level == 1) {
        write_geometry(fdt, cache)?;
    }
    if let Some(next) = next {
        fdt.property_u32("next-level-cache", next.phandle(index))?;
    }
    fdt.property_phandle(phandle(index))?;
    fdt.end_node(node)
}

fn write_geometry(fdt: &mut FdtWriter, cache: &Cache) -> Result<(), Error> {
    let kind = match cache.kind {
        Kind::Data => "d-",
        Kind::Instruction => "i-",
        Kind::Unified => "",
    };
    fdt.property_u32(&format!("{kind}cache-size"), cache.size)?;
    fdt.property_u32(&format!("{kind}cache-line-size"), cache.line_size)?;
    fdt.property_u32(&format!("{kind}cache-sets"), cache.sets)
}

/// The caches of a level behind the first: one of all processors, or one of each.
struct Far {
    cache: Cache,
    first: u32,
    count: u8,
}

impl Far {
    /// Those levels that are unified and follow each other without a gap.
    fn of(caches: &[Cache], cpus: u8) -> Vec<Self> {
        let mut first = FIRST_CACHE;
        let unified = caches.iter().filter(|cache| cache.kind == Kind::Unified);
        let chain = (2..).zip(unified.filter(|cache| cache.level > 1));
        let chain = chain.take_while(|(level, cache)| cache.level == *level);
        chain
            .map(|(_, cache)| {
                let count = if cache.shared { 1 } else { cpus };
                let far = Self { cache: *cache, first, count };
                first = first.saturating_add(count.into());
                far
            })
            .collect()
    }

    /// The cache that vCPU `index` has.
    fn phandle(&self, index: u8) -> u32 {
        self.first.saturating_add(if self.cache.shared { 0 } else { index.into() })
    }

    fn write(&self, fdt: &mut FdtWriter, next: Option<&Self>) -> Result<(), Error> {
        for index in 0..self.count {
            let node = fdt.begin_node(&format!("l{}-cache{index}", self.cache.level))?;
            fdt.property_string("compatible", "cache")?;
            fdt.property_u32("cache-level", self.cache.level)?;
            fdt.property_null("cache-unified")?;
            write_geometry(fdt, &self.cache)?;
            if let Some(next) = next {
                fdt.property_u32("next-level-cache", next.phandle(index))?;
            }
            fdt.property_phandle(self.phandle(index))?;
            fdt.end_node(node)?;
        }
        Ok(())
    }
}
