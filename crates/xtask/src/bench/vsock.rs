//! Sockets between guest and host: bytes both ways and connections, against QEMU with the host
//! kernel's vhost-vsock, and against the same program at both ends of plain Unix sockets.

use std::process::Command;

use anyhow::{Context as _, Result};

use super::Context;
use super::boot::{ROOT, add_linux_that_runs_us};
use super::figure::{Figure, Unit};
use super::flow::{self, End, Flow};
use super::guest::{self, DONE};
use super::inside::Inside;
use super::monitor::{Disk, Guest};
use super::place::{Place, VMM, XTASK};
use super::record::{Arm, Records};
use super::run::{Run, interleave};
use super::socket::{Address, HOST_CID, OWN_CID};

/// Name of the group.
pub(super) const GROUP: &str = "vsock";

/// The hidden group that is the other end of plain Unix sockets.
pub(super) const PLAIN: &str = "vsock-plain";

/// The variable that asks the guest for this; the kernel passes it on from its command line.
pub(super) const ROLE: &str = "BENCH_VSOCK";

const RUNS: usize = 10;
const GUEST_CID: u32 = 3;
/// Where the guest listens, and the host.
const GUEST_PORT: u32 = 1025;
const HOST_PORT: u32 = 5001;

const FLOWS: [Flow; 4] = [Flow::ToHost(1), Flow::ToGuest(1), Flow::CallsOfGuest, Flow::CallsOfHost];

/// What is between the two ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Between {
    Ours,
    Vhost,
    Plain,
    Control,
}

const ALL: [Between; 4] = [Between::Ours, Between::Vhost, Between::Plain, Between::Control];

impl Between {
    fn arm(self) -> Arm {
        match self {
            Self::Ours => Arm::Ours,
            Self::Vhost | Self::Plain => Arm::Peer,
            Self::Control => Arm::Control,
        }
    }

    fn series(self, flow: Flow) -> String {
        format!("{GROUP}, {self:?}, {flow:?}")
    }

    /// The host's end.
    fn end(self, inside: &Inside) -> Result<End> {
        let (here, there) = match self {
            Self::Ours | Self::Control => {
                let at = |port| Address::Monitor { socket: inside.file("vsock"), port };
                (at(HOST_PORT), at(GUEST_PORT))
            }
            Self::Vhost => {
                (Address::vsock(OWN_CID, HOST_PORT), Address::vsock(GUEST_CID, GUEST_PORT))
            }
            Self::Plain => plain(inside),
        };
        Ok(End { here: Some(here.listen()?), there: Some(there) })
    }

    /// The command behind which the other end is.
    fn command(self, inside: &Inside) -> Command {
        if self == Self::Plain {
            let mut command = Command::new(inside.file(XTASK));
            command.args(["bench-inside", PLAIN, "1"]).arg(inside.file(""));
            return command;
        }
        let guest = Guest {
            kernel: inside.file("minimal"),
            cmdline: Some(guest::cmdline(&format!("{ROLE}=1"))),
            disks: vec![Disk::readonly(inside.file(ROOT))],
            net: None,
        };
        let mut command = guest.command(self.arm(), &inside.file(VMM));
        match self {
            Self::Vhost => {
                command.args(["-device", &format!("vhost-vsock-device,guest-cid={GUEST_CID}")])
            }
            _ => {
                let socket = inside.file("vsock");
                command.args(["--vsock", &format!("cid={GUEST_CID},socket={}", socket.display())])
            }
        };
        command
    }
}

/// The plain sockets of the host's end and of the other one.
fn plain(inside: &Inside) -> (Address, Address) {
    (Address::Unix(inside.file("plain-host")), Address::Unix(inside.file("plain-guest")))
}

/// Measures and returns the figures.
///
/// # Errors
/// A run failed.
pub(super) fn figures(context: &Context, records: &mut Records) -> Result<Vec<Figure>> {
    let bundle = context.bundle(GROUP)?;
    add_linux_that_runs_us(&bundle)?;
    records.merge(bundle.measure(Place::Emulated, GROUP, context.runs(RUNS))?);
    let mut figures = vec![];
    for flow in FLOWS {
        let (title, unit) = match flow {
            Flow::ToHost(_) => ("guest to host", Unit::MibPerSecond),
            Flow::ToGuest(_) => ("host to guest", Unit::MibPerSecond),
            Flow::CallsOfGuest => ("connections of the guest", Unit::PerSecond),
            _ => ("connections of the host", Unit::PerSecond),
        };
        for (peer, name) in
            [(Between::Vhost, "to QEMU's vhost-vsock"), (Between::Plain, "to a Unix socket")]
        {
            let (ours, theirs) = (Between::Ours.series(flow), peer.series(flow));
            let figure = Figure::between(records, (&ours, Arm::Ours), (&theirs, Arm::Peer), GROUP)?;
            let name = format!("vsock, {title}: {name}");
            figures.push(figure.named(&name, Place::Emulated.name()).in_unit(unit));
        }
    }
    Ok(figures)
}

/// Runs in the emulated host.
///
/// # Errors
/// A run failed.
pub(super) fn inside(inside: &mut Inside) -> Result<()> {
    for between in ALL.into_iter().filter(|between| *between != Between::Control) {
        let command = between.command(inside);
        inside.describe_command(&format!("{GROUP}, {between:?}"), between.arm(), &command)?;
    }
    eprintln!("bench: sockets between guest and host, {} of each kind", inside.runs);
    interleave(inside.runs, &ALL, |between, counts| {
        if between == Between::Control {
            return inside.control(GROUP, counts);
        }
        let end = between.end(inside)?;
        let mut run = Run::start(&mut between.command(inside))?;
        let values = flow::at_host(&mut run, &FLOWS, end);
        let values = values.with_context(|| format!("{between:?}"))?;
        drop(run);
        for (flow, value) in FLOWS.into_iter().zip(values) {
            inside.sample(&between.series(flow), between.arm(), value, counts)?;
        }
        Ok(())
    })
}

/// What the guest does.
///
/// # Errors
/// A stream broke.
pub(super) fn in_guest() -> Result<()> {
    let here = Address::vsock(OWN_CID, GUEST_PORT).listen()?;
    let there = Address::vsock(HOST_CID, HOST_PORT);
    flow::at_guest(&FLOWS, &End { here: Some(here), there: Some(there) })
}

/// The same as [`in_guest`], at the other end of plain Unix sockets.
///
/// # Errors
/// A stream broke.
pub(super) fn plain_guest(inside: &Inside) -> Result<()> {
    let (host, guest) = plain(inside);
    flow::at_guest(&FLOWS, &End { here: Some(guest.listen()?), there: Some(host) })?;
    println!("{DONE}");
    Ok(())
}
