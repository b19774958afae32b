//! Refusing what cannot work before anything is opened.

use std::collections::HashSet;
use std::path::Path;

use super::{
    Balloon, ConfigError, Console, Disk, Engine, MAX_CMDLINE_LEN, MAX_CPUS, MAX_VIRTIO_DEVICES,
    MEMORY_STEP, MIN_MEMORY, MemorySize, Net, Port, VmConfig, Vsock,
};

/// What a configuration is measured against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Host {
    /// Memory of the host.
    pub memory: MemorySize,
}

impl Host {
    /// The host this process runs on.
    pub fn read() -> Self {
        let info = rustix::system::sysinfo();
        let memory = info.totalram.saturating_mul(u64::from(info.mem_unit));
        Self { memory: MemorySize::from_bytes(memory) }
    }
}

impl VmConfig {
    /// Refuses what cannot be built on `host`, before any file is opened or anything is created.
    ///
    /// # Errors
    /// The first thing that is wrong, as a sentence with the numbers in it.
    pub fn validate(&self, host: &Host) -> Result<(), ConfigError> {
        self.validate_sizes(host)?;
        self.validate_cmdline()?;
        self.validate_paths()?;
        self.validate_disks()?;
        self.validate_nets()?;
        self.validate_vsock()?;
        self.validate_balloon()?;
        self.validate_ports()?;
        self.validate_limits()?;
        let devices = self.device_names().len();
        refuse_if(devices > MAX_VIRTIO_DEVICES, || ConfigError::TooManyDevices(devices))
    }

    fn validate_sizes(&self, host: &Host) -> Result<(), ConfigError> {
        let (cpus, memory) = (self.cpus, self.memory);
        refuse_if(!(1..=MAX_CPUS).contains(&cpus), || ConfigError::Cpus(cpus.into()))?;
        refuse_if(memory < MIN_MEMORY, || ConfigError::MemoryTooSmall(memory))?;
        refuse_if(!memory.bytes().is_multiple_of(MEMORY_STEP.bytes()), || {
            ConfigError::MemoryStep(memory)
        })?;
        refuse_if(memory > host.memory, || ConfigError::MemoryBeyondHost {
            wanted: memory,
            host: host.memory,
        })
    }

    fn validate_cmdline(&self) -> Result<(), ConfigError> {
        let parts: Vec<&str> =
            [&self.cmdline, &self.append].into_iter().flatten().map(|s| &**s).collect();
        let text = parts.join(" ");
        refuse_if(text.len() > MAX_CMDLINE_LEN, || ConfigError::CmdlineTooLong(text.len()))?;
        match text.chars().find(|c| c.is_control()) {
            Some(c) => Err(ConfigError::CmdlineControl(c)),
            None => Ok(()),
        }
    }

    fn validate_paths(&self) -> Result<(), ConfigError> {
        let named = [
            ("kernel", Some(&self.kernel)),
            ("initrd", self.initrd.as_ref()),
            ("rootfs", self.rootfs.as_ref()),
            ("metrics file", self.metrics.as_ref()),
        ];
        let disks = self.disks.iter().map(|disk| ("disk", Some(&disk.path)));
        let sockets = self.ports.iter().map(|port| ("socket", Some(&port.socket)));
        let console = match &self.console {
            Console::File(path) => Some(("console", Some(path))),
            _ => None,
        };
        for (noun, path) in named.into_iter().chain(disks).chain(sockets).chain(console) {
            let empty = path.is_some_and(|path| path.as_os_str().is_empty());
            refuse_if(empty, || ConfigError::EmptyPath(noun))?;
        }
        refuse_if(self.rootfs_readonly && self.rootfs.is_none(), || {
            ConfigError::ReadonlyWithoutRootfs
        })
    }

    fn validate_disks(&self) -> Result<(), ConfigError> {
        let drives = self.drives();
        let names = self.device_names();
        let others: HashSet<_> = names.iter().skip(drives.len()).map(String::as_str).collect();
        let mut ids = HashSet::new();
        for id in drives.iter().filter_map(|drive| drive.id.as_deref()) {
            refuse_if(!Disk::is_valid_id(id), || ConfigError::DiskId(id.to_owned()))?;
            refuse_if(others.contains(id), || ConfigError::TakenDiskId(id.to_owned()))?;
            refuse_if(!ids.insert(id), || ConfigError::DuplicateDiskId(id.to_owned()))?;
        }
        for (index, drive) in drives.iter().enumerate() {
            refuse_if(!(1..=Disk::MAX_QUEUES).contains(&drive.queues), || {
                ConfigError::DiskQueues(drive.queues)
            })?;
            validate_overlay(drive)?;
            let others = drives.iter().skip(index.saturating_add(1));
            if let Some(path) = others.filter_map(|other| shared_writable(drive, other)).next() {
                return Err(ConfigError::SharedWritableDisk(path.to_owned()));
            }
        }
        Ok(())
    }

    fn validate_nets(&self) -> Result<(), ConfigError> {
        let (mut taps, mut ports) = (HashSet::new(), HashSet::new());
        for net in &self.nets {
            validate_net_kind(net)?;
            if let Some(tap) = &net.tap {
                refuse_if(!Net::is_valid_tap(tap), || ConfigError::TapName(tap.clone()))?;
                refuse_if(!taps.insert(tap), || ConfigError::DuplicateTap(tap.clone()))?;
            }
            for publish in &net.publish {
                let port = (publish.protocol, publish.address, publish.host_port);
                let twice = || ConfigError::DuplicatePublish(publish.to_string());
                refuse_if(!ports.insert(port), twice)?;
            }
            if let Some(mtu) = net.mtu {
                let fits = (Net::MIN_MTU..=Net::MAX_MTU).contains(&mtu);
                refuse_if(!fits, || ConfigError::Mtu(mtu))?;
            }
            let queues = net.queues;
            refuse_if(!(1..=Net::MAX_QUEUES).contains(&queues), || ConfigError::Queues(queues))?;
            validate_addresses(net)?;
        }
        Ok(())
    }

    fn validate_vsock(&self) -> Result<(), ConfigError> {
        let Some(Vsock { cid, socket }) = &self.vsock else { return Ok(()) };
        let fits = (Vsock::MIN_CID..=Vsock::MAX_CID).contains(cid);
        refuse_if(!fits, || ConfigError::Cid(*cid))?;
        refuse_if(!Vsock::is_valid_socket(socket), || ConfigError::Socket(socket.clone()))
    }

    fn validate_balloon(&self) -> Result<(), ConfigError> {
        let Some(Balloon { size, .. }) = self.balloon else { return Ok(()) };
        refuse_if(!size.bytes().is_multiple_of(Balloon::STEP.bytes()), || {
            ConfigError::BalloonStep(size)
        })?;
        refuse_if(size >= self.memory, || ConfigError::BalloonTooLarge {
            wanted: size,
            memory: self.memory,
        })
    }
}

/// What goes with a TAP interface, and what with a user network.
fn validate_net_kind(net: &Net) -> Result<(), ConfigError> {
    refuse_if(net.tap.is_some() == net.user, || ConfigError::NetKind)?;
    let wrong = |key, kind| ConfigError::NetKey { key, kind };
    if net.user {
        refuse_if(net.queues != 1, || wrong("queues", "user"))?;
        refuse_if(net.ip.is_some() && net.gateway.is_none(), || ConfigError::UserGateway)
    } else {
        refuse_if(!net.publish.is_empty(), || wrong("publish", "tap"))
    }
}

fn validate_addresses(net: &Net) -> Result<(), ConfigError> {
    if let Some(ip6) = net.ip6 {
        let no_host = ip6.is_unspecified() || ip6.is_loopback() || ip6.is_multicast();
        refuse_if(no_host, || ConfigError::Ip6(ip6))?;
    }
    match (net.ip, net.gateway) {
        (None, Some(gateway)) => Err(ConfigError::GatewayWithoutIp(gateway)),
        (Some(ip), Some(gateway)) => {
            refuse_if(!ip.is_neighbour(gateway), || ConfigError::Gateway { gateway, ip })
        }
        (_, None) => Ok(()),
    }
}

impl VmConfig {
    fn validate_ports(&self) -> Result<(), ConfigError> {
        let count = self.ports.len();
        refuse_if(count > Port::MAX, || ConfigError::TooManyPorts(count))?;
        let (mut names, mut sockets) = (HashSet::new(), HashSet::new());
        for Port { name, socket } in &self.ports {
            refuse_if(!Port::is_valid_name(name), || ConfigError::PortName(name.clone()))?;
            refuse_if(!names.insert(name), || ConfigError::DuplicatePort(name.clone()))?;
            refuse_if(!sockets.insert(socket), || ConfigError::DuplicateSocket(socket.clone()))?;
            let too_long = socket.as_os_str().len() > Port::MAX_SOCKET_LEN;
            refuse_if(too_long, || ConfigError::SocketTooLong(socket.clone()))?;
        }
        Ok(())
    }
}

/// What goes with an overlay, which is qcow2 and served by calls that wait.
fn validate_overlay(disk: &Disk) -> Result<(), ConfigError> {
    let Some(path) = &disk.overlay else { return Ok(()) };
    refuse_if(path.as_os_str().is_empty(), || ConfigError::EmptyPath("overlay"))?;
    let cannot = [
        (disk.readonly, "readonly"),
        (disk.direct, "direct"),
        (disk.engine() != Engine::Sync, "served by io_uring"),
    ];
    match cannot.into_iter().find(|(asked, _)| *asked) {
        Some((_, what)) => {
            Err(ConfigError::Overlay { id: disk.id.clone().unwrap_or_default(), what })
        }
        None => Ok(()),
    }
}

/// A file that both disks use and one of them writes.
fn shared_writable<'d>(one: &'d Disk, other: &'d Disk) -> Option<&'d Path> {
    let files = |disk: &'d Disk| {
        let written = !disk.readonly && disk.overlay.is_none();
        let overlay = disk.overlay.as_deref().map(|path| (path, true));
        [Some((&*disk.path, written)), overlay].into_iter().flatten()
    };
    let both = |path: &Path, written: bool| {
        files(other).any(|(other, other_written)| other == path && (written || other_written))
    };
    files(one).find(|(path, written)| both(path, *written)).map(|(path, _)| path)
}

fn refuse_if(bad: bool, error: impl FnOnce() -> ConfigError) -> Result<(), ConfigError> {
    if bad { Err(error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::super::PartialConfig;
    use super::*;

    const HOST: Host = Host { memory: MemorySize::from_mib(4096) };

    fn refused(change: impl FnOnce(&mut VmConfig)) -> String {
        let mut config = valid();
        change(&mut config);
        let error = config.validate(&HOST).expect_err("refused");
        assert!(error.hint().is_some(), "{error}");
        error.to_string()
    }

    fn valid() -> VmConfig {
        let config = PartialConfig { kernel: Some("vmlinux".into()), ..PartialConfig::default() };
        config.resolve().expect("a kernel is enough")
    }

    #[test]
    fn overlays_are_written_by_one_disk_and_their_base_by_none() {
        let with = |disks: &[&str]| VmConfig {
            disks: disks.iter().map(|text| text.parse().expect(text)).collect(),
            ..valid()
        };
        with(&["path=a,overlay=x", "path=a,overlay=y", "path=a,readonly=on"])
            .validate(&HOST)
            .expect("one base, two overlays, one reader");
        for disks in [
            &["path=a,overlay=x", "path=a"][..],
            &["path=a,overlay=x", "path=b,overlay=x"],
            &["path=a,overlay=x", "path=x,readonly=on"],
            &["path=a,overlay=a", "path=b"],
        ] {
            let refused = with(disks).validate(&HOST);
            let alone = disks == ["path=a,overlay=a", "path=b"];
            // One that is its own base finds itself locked.
            assert_eq!(refused.is_err(), !alone, "{disks:?}");
        }
        for (more, said) in [
            ("readonly=on", "cannot be readonly"),
            ("direct=on", "cannot be direct"),
            ("engine=io_uring", "cannot be served by io_uring"),
        ] {
            let text = format!("path=a,overlay=x,{more}");
            let error = with(&[&text]).validate(&HOST).expect_err(said).to_string();
            assert!(error.contains("disk0") && error.contains(said), "{error}");
        }
    }

    fn disk(path: &str, readonly: bool, id: Option<&str>) -> Disk {
        Disk { readonly, id: id.map(str::to_owned), ..Disk::new(path) }
    }

    fn net(tap: &str, mtu: Option<u16>) -> Net {
        Net { mtu, ..format!("tap={}", tap.replace(',', ",,")).parse().expect("a tap is enough") }
    }

    #[test]
    fn the_least_and_the_largest_machine_are_accepted() {
        let mut config = valid();
        config.memory = MIN_MEMORY;
        config.validate(&HOST).expect("least");
        config.memory = HOST.memory;
        config.cpus = MAX_CPUS;
        config.cmdline = Some("x".repeat(MAX_CMDLINE_LEN));
        config.disks =
            (3..MAX_VIRTIO_DEVICES).map(|n| disk(&format!("d{n}"), false, None)).collect();
        config.nets = vec![net("tap0", Some(Net::MIN_MTU)), net("tap1", Some(Net::MAX_MTU))];
        config.validate(&HOST).expect("largest");
    }

    /// K7: sizes and counts of nothing, beyond the host and near overflow.
    #[test]
    fn sizes_out_of_range_are_refused_with_their_numbers() {
        let memory = |bytes| move |c: &mut VmConfig| c.memory = MemorySize::from_bytes(bytes);
        assert_eq!(refused(memory(0)), "memory is 0B, a machine has at least 32M");
        assert_eq!(refused(memory(1 << 20)), "memory is 1M, a machine has at least 32M");
        assert_eq!(refused(memory(33 << 20)), "memory is 33M, which is not a multiple of 2M");
        assert_eq!(refused(memory((4096 + 2) << 20)), "memory is 4098M, this host has 4096 MiB");
        assert!(refused(memory(u64::MAX - (2 << 20) + 1)).contains("this host has"));
        assert_eq!(refused(|c| c.cpus = 0), "cpus is 0, a machine has 1 to 64");
        assert_eq!(refused(|c| c.cpus = 65), "cpus is 65, a machine has 1 to 64");
    }

    /// K6: a command line that is too long or would be cut or split by the guest.
    #[test]
    fn cmdline_too_long_or_with_control_characters_is_refused() {
        let long = refused(|c| c.cmdline = Some("x".repeat(2048)));
        assert!(long.contains("2048 bytes"), "{long}");
        let both = refused(|c| {
            c.cmdline = Some("x".repeat(1024));
            c.append = Some("y".repeat(1023));
        });
        assert!(both.contains("2048 bytes"), "{both}");
        for bad in ["a\0b", "a\nb", "a\rb", "a\u{1b}b"] {
            let error = refused(|c| c.append = Some(bad.to_owned()));
            assert!(error.contains("control character") && !error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn disks_that_clash_are_refused() {
        let ids =
            refused(|c| c.disks = vec![disk("a", true, Some("x")), disk("b", true, Some("x"))]);
        assert_eq!(ids, "two disks have the id \"x\"");
        let derived =
            refused(|c| c.disks = vec![disk("a", true, Some("disk1")), disk("b", true, None)]);
        assert_eq!(derived, "two disks have the id \"disk1\"");
        let shared = refused(|c| c.disks = vec![disk("a", true, None), disk("a", false, None)]);
        assert!(shared.starts_with("a is given as a disk twice"), "{shared}");
        let rootfs = refused(|c| {
            c.rootfs = Some("a".into());
            c.disks = vec![disk("a", true, None)];
        });
        assert!(rootfs.starts_with("a is given as a disk twice"), "{rootfs}");
        let long = refused(|c| c.disks = vec![disk("a", true, Some(&"x".repeat(21)))]);
        assert!(long.contains("1 to 20"), "{long}");
        for queues in [0, 9, u16::MAX] {
            let many = refused(|c| c.disks = vec![Disk { queues, ..disk("a", true, None) }]);
            assert_eq!(many, format!("a disk has 1 to 8 queues, not {queues}"));
        }
    }

    #[test]
    fn one_image_may_be_given_twice_read_only() {
        let mut config = valid();
        config.disks = vec![disk("a", true, None), disk("a", true, None)];
        config.validate(&HOST).expect("readers do not disturb each other");
    }

    #[test]
    fn networks_that_cannot_be_are_refused() {
        let twice = refused(|c| c.nets = vec![net("tap0", None), net("tap0", None)]);
        assert_eq!(twice, "two networks use the tap \"tap0\"");
        assert!(refused(|c| c.nets = vec![net("a/b", None)]).contains("\"a/b\""));
        assert!(refused(|c| c.nets = vec![net("tap0", Some(67))]).contains("67"));
        assert!(refused(|c| c.nets = vec![net("tap0", Some(65522))]).contains("65522"));
        let addresses = |text: &str| refused(|c| c.nets = vec![text.parse().expect(text)]);
        let other = addresses("tap=t,ip=10.0.0.2/24,gateway=10.0.1.1");
        assert_eq!(other, "gateway 10.0.1.1 is not another host in the network of ip 10.0.0.2/24");
        let own = addresses("tap=t,ip=10.0.0.2/24,gateway=10.0.0.2");
        assert!(own.contains("not another host"), "{own}");
        assert_eq!(addresses("tap=t,gateway=10.0.0.1"), "gateway 10.0.0.1 is given without ip");
        assert!(addresses("mtu=1500").contains("on a tap or a user network"));
        assert!(addresses("user,tap=t").contains("one of them"));
        assert_eq!(addresses("user,queues=2"), "queues is not for a user network");
        assert_eq!(addresses("tap=t,publish=1:1"), "publish is not for a tap network");
        assert_eq!(addresses("user,ip=10.0.0.2/24"), "a user network with ip needs gateway");
        let ports = addresses("user,publish=8080:80,publish=127.0.0.1:8080:81");
        assert_eq!(ports, "two networks publish 127.0.0.1:8080:81");
        assert_eq!(addresses("tap=t,queues=0"), "queues is 0, a network has 1 to 8");
        assert_eq!(addresses("tap=t,queues=9"), "queues is 9, a network has 1 to 8");
        assert_eq!(addresses("tap=t,ip6=ff02::1"), "ip6 ff02::1 cannot be the address of a host");
    }

    #[test]
    fn balloon_must_leave_the_guest_memory() {
        let balloon = |size| Some(Balloon { size, ..Balloon::default() });
        let mut config = valid();
        config.balloon = balloon(MemorySize::from_mib(255));
        config.validate(&HOST).expect("some is left");
        let all = refused(|c| c.balloon = balloon(c.memory));
        assert_eq!(all, "balloon is 256M, the machine has 256M");
        let torn = refused(|c| c.balloon = balloon(MemorySize::from_bytes((1 << 20) + 4096)));
        assert_eq!(torn, "balloon is 1028K, which is not a multiple of 1M");
    }

    /// S7: what a guest could not be shown, and what could not be told apart.
    #[test]
    fn ports_that_cannot_be_are_refused() {
        let port = |name: &str, socket: &str| Port { name: name.into(), socket: socket.into() };
        let error = refused(|c| c.ports = vec![port("a", "x"), port("a", "y")]);
        assert_eq!(error, "two ports have the name \"a\"");
        let error = refused(|c| c.ports = vec![port("a", "x"), port("b", "x")]);
        assert_eq!(error, "two ports have the socket x");
        assert!(refused(|c| c.ports = vec![port("a/b", "x")]).contains("\"a/b\""));
        assert!(refused(|c| c.ports = vec![port("a", "")]).contains("path of the socket"));
        assert!(refused(|c| c.ports = vec![port("a", &"x".repeat(108))]).contains("107 bytes"));
        let many = (0..17).map(|n| port(&format!("p{n}"), &format!("s{n}"))).collect();
        assert_eq!(refused(|c| c.ports = many), "17 ports, a machine has at most 16");
        assert!(refused(|c| c.console = Console::File("".into())).contains("path of the console"));
    }

    #[test]
    fn socket_devices_that_cannot_be_are_refused() {
        let vsock = |cid, socket: &str| {
            let vsock = Vsock { cid, socket: socket.into() };
            move |c: &mut VmConfig| c.vsock = Some(vsock)
        };
        for cid in [0, 1, 2, u32::MAX] {
            assert!(refused(vsock(cid, "a")).starts_with(&format!("cid is {cid}, ")));
        }
        assert!(refused(vsock(3, &"x".repeat(97))).contains("1 to 96 bytes"));
        for cid in [3, u32::MAX - 1] {
            let mut config = valid();
            vsock(cid, &"x".repeat(96))(&mut config);
            config.validate(&HOST).expect("valid");
        }
    }

    #[test]
    fn one_device_too_many_is_refused() {
        let error = refused(|c| {
            c.disks = (0..19).map(|n| disk(&format!("d{n}"), false, None)).collect();
        });
        assert!(error.starts_with("20 virtio devices"), "{error}");
        let error = refused(|c| {
            c.disks = (0..17).map(|n| disk(&format!("d{n}"), false, None)).collect();
            c.console = Console::Virtio;
        });
        assert!(error.starts_with("19 virtio devices"), "{error}");
    }

    #[test]
    fn empty_paths_and_a_readonly_rootfs_that_is_not_there_are_refused() {
        assert_eq!(refused(|c| c.kernel = "".into()), "the path of the kernel is empty");
        assert_eq!(refused(|c| c.initrd = Some("".into())), "the path of the initrd is empty");
        assert_eq!(
            refused(|c| c.disks = vec![disk("", false, None)]),
            "the path of the disk is empty"
        );
        assert!(refused(|c| c.rootfs_readonly = true).contains("there is no rootfs"));
    }

    #[test]
    fn this_host_has_memory() {
        assert!(Host::read().memory > MIN_MEMORY);
    }
}
