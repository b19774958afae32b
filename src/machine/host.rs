//! What a machine takes from the host, opened before anything is built.

use std::fs::File;
use std::path::Path;

use super::MachineError;
use super::console::HostConsole;
use crate::config::{self, VmConfig, open_regular};
use crate::devices::virtio::VirtioDevice;
use crate::devices::virtio::balloon::Balloon;
use crate::devices::virtio::block::{Block, Disk};
use crate::devices::virtio::net::{Backend, Filter, Net, Passt, Tap};
use crate::devices::virtio::rng::Rng;
use crate::devices::virtio::vsock::Vsock;

/// The files and devices of a machine. Everything is released when it is dropped: locks, sockets, programs,
/// and TAP interfaces that did not exist before.
pub(super) struct HostResources {
    pub(super) kernel: File,
    pub(super) initrd: Option<File>,
    pub(super) console: HostConsole,
    /// In the order the guest finds them: disks, then network interfaces, then the rest.
    pub(super) devices: Vec<Box<dyn VirtioDevice>>,
}

impl HostResources {
    pub(super) fn open(config: &VmConfig) -> Result<Self, MachineError> {
        let kernel = open("kernel", &config.kernel)?;
        let initrd = config.initrd.as_deref().map(|path| open("initrd", path)).transpose()?;
        let mut devices = open_disks(config)?;
        devices.extend(open_nets(config)?);
        devices.push(Box::new(Rng::default()));
        devices.extend(open_vsock(config)?);
        if let Some(balloon) = &config.balloon {
            devices.push(Box::new(Balloon::open(balloon).map_err(MachineError::Balloon)?));
        }
        let console = HostConsole::open(config)?;
        if let Some(device) = console.device(config)? {
            devices.push(Box::new(device));
        }
        Ok(Self { kernel, initrd, console, devices })
    }
}

fn open(noun: &'static str, path: &Path) -> Result<File, MachineError> {
    open_regular(path).map_err(|source| MachineError::File { noun, source })
}

fn open_disks(config: &VmConfig) -> Result<Vec<Box<dyn VirtioDevice>>, MachineError> {
    let open = |drive: config::Disk| -> Result<Box<dyn VirtioDevice>, MachineError> {
        let id = drive.id.clone().unwrap_or_default();
        let disk = match &drive.overlay {
            Some(overlay) => Disk::open_overlay(&drive.path, overlay),
            None if drive.direct => Disk::open_direct(&drive.path, drive.readonly),
            None => Disk::open(&drive.path, drive.readonly),
        };
        let engine = drive.engine();
        match disk {
            Ok(disk) => {
                Ok(Box::new(Block::new(disk, &id).with_engine(engine).with_queues(drive.queues)))
            }
            Err(source) => Err(MachineError::Disk { id, source }),
        }
    };
    config.drives().into_iter().map(open).collect()
}

fn open_nets(config: &VmConfig) -> Result<Vec<Box<dyn VirtioDevice>>, MachineError> {
    let open = |(index, net): (usize, &config::Net)| -> Result<Box<dyn VirtioDevice>, _> {
        let mac = net.mac_address(index).bytes();
        let backends = match &net.tap {
            Some(tap) => open_tap(tap, net)?,
            None => vec![Box::new(Passt::start(net, mac)?) as Box<dyn Backend>],
        };
        let device = Net::with_queues(backends, mac, net.largest_packet());
        let filter = Filter { mac, ipv4: net.ip.map(config::Ipv4Network::address), ipv6: net.ip6 };
        Ok(Box::new(if net.filter { device.with_filter(filter) } else { device }))
    };
    config.nets.iter().enumerate().map(open).collect()
}

/// One connection for each pair of queues.
fn open_tap(name: &str, net: &config::Net) -> Result<Vec<Box<dyn Backend>>, MachineError> {
    let refused = |source| MachineError::Net { tap: name.to_owned(), source };
    if net.queues == 1 {
        return Ok(vec![Box::new(Tap::open(name, net.mtu).map_err(refused)?)]);
    }
    let taps = Tap::open_queues(name, net.mtu, net.queues).map_err(refused)?;
    Ok(taps.into_iter().map(|tap| Box::new(tap) as Box<dyn Backend>).collect())
}

fn open_vsock(config: &VmConfig) -> Result<Option<Box<dyn VirtioDevice>>, MachineError> {
    let Some(config::Vsock { cid, socket }) = &config.vsock else { return Ok(None) };
    match Vsock::open(*cid, socket) {
        Ok(vsock) => Ok(Some(Box::new(vsock))),
        Err(source) => Err(MachineError::Vsock { source }),
    }
}
