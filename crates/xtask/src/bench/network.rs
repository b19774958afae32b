//! The network of a guest: TCP both ways on one stream and on four, and the time there and back. Over
//! TAP against QEMU without vhost and with it, and by passt.

use anyhow::{Context as _, Result};

use super::Context;
use super::boot::{ROOT, add_linux_that_runs_us};
use super::figure::{Figure, Goal, Unit};
use super::flow::{self, End, Flow};
use super::guest;
use super::inside::{self, Inside, Link};
use super::monitor::{Disk, Guest, Network};
use super::place::{Place, VMM};
use super::record::{Arm, Records};
use super::run::interleave;
use super::socket::Address;

/// Name of the group.
pub(super) const GROUP: &str = "net";

/// The variable that names the host's end; the kernel passes it on from its command line.
pub(super) const HOST: &str = "BENCH_NET";

const RUNS: usize = 10;
const PORT: u16 = 5001;

/// The interface that passt takes for the way out of the host, and its address. The router behind it
/// need not exist.
const UPLINK: (&str, &str) = ("uplink", "192.0.2.1");
const ROUTER: &str = "192.0.2.254";
/// On a busy machine a stream by the passt of Debian 12 is reset now and then: such a guest is not
/// counted, and another is started, so many at most.
const PASST_VISITS: u32 = 4;
/// The guest's end of passt.
const USER: Network = Network::User { guest: "10.0.3.2", gateway: "10.0.3.1" };

const FLOWS: [Flow; 5] =
    [Flow::ToHost(1), Flow::ToHost(4), Flow::ToGuest(1), Flow::ToGuest(4), Flow::Echo];

/// Who moves the frames, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Ours,
    Qemu,
    Vhost,
    Passt,
    Control,
}

const WAYS: [Way; 5] = [Way::Ours, Way::Qemu, Way::Vhost, Way::Passt, Way::Control];

impl Way {
    fn arm(self) -> Arm {
        match self {
            Self::Ours | Self::Passt => Arm::Ours,
            Self::Qemu | Self::Vhost => Arm::Peer,
            Self::Control => Arm::Control,
        }
    }

    fn series(self, flow: Flow) -> String {
        format!("{GROUP}, {self:?}, {flow:?}")
    }

    /// The host's address, as the guest calls it.
    fn host(self) -> &'static str {
        match self {
            Self::Passt => UPLINK.1,
            way => Link::of(way.arm()).host,
        }
    }

    fn network(self) -> Network {
        let Link { tap, .. } = Link::of(self.arm());
        match self {
            Self::Passt => USER,
            Self::Vhost => Network::Vhost(tap.to_owned()),
            _ => Network::Tap(tap.to_owned()),
        }
    }

    fn cmdline(self) -> String {
        let Link { host, guest, .. } = Link::of(self.arm());
        let own = match self {
            // Our monitor adds it by itself.
            Self::Passt => String::new(),
            _ => format!("ip={guest}::{host}:255.255.255.0::eth0:off "),
        };
        guest::cmdline(&format!("{own}{HOST}={}:{PORT}", self.host()))
    }
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
        figures.extend(of_flow(flow, records)?);
    }
    Ok(figures)
}

/// Ours over TAP against both ways of QEMU, and ours by passt against that.
fn of_flow(flow: Flow, records: &Records) -> Result<[Figure; 3]> {
    let (title, unit, goal) = match flow {
        Flow::Echo => ("TCP, a byte there and back".into(), Unit::Ms, Goal::RatioAtMost(1.0)),
        Flow::ToHost(count) => (streams("guest to host", count), RATE, Goal::RatioAtLeast(1.0)),
        Flow::ToGuest(count) => (streams("host to guest", count), RATE, Goal::RatioAtLeast(1.0)),
        Flow::CallsOfGuest | Flow::CallsOfHost => anyhow::bail!("{flow:?} has no figure"),
    };
    let figure = |ours: Way, peer: Way, name: &str| -> Result<Figure> {
        let (ours, theirs) = (ours.series(flow), peer.series(flow));
        let figure = Figure::between(records, (&ours, Arm::Ours), (&theirs, peer.arm()), GROUP)?;
        Ok(figure.named(&format!("{title}: {name}"), Place::Emulated.name()).in_unit(unit))
    };
    Ok([
        figure(Way::Ours, Way::Qemu, "TAP, to QEMU's")?.with_goal(goal),
        figure(Way::Ours, Way::Vhost, "TAP, to QEMU's by vhost")?,
        figure(Way::Passt, Way::Ours, "passt, to our TAP")?,
    ])
}

const RATE: Unit = Unit::MibPerSecond;

fn streams(direction: &str, count: usize) -> String {
    format!("TCP {direction}, {count} stream{}", if count == 1 { "" } else { "s" })
}

/// Runs in the emulated host.
///
/// # Errors
/// A run failed.
pub(super) fn inside(inside: &mut Inside) -> Result<()> {
    Link::make_all()?;
    inside::make(UPLINK.0, UPLINK.1)?;
    inside::ip(&format!("route add default via {ROUTER} dev {}", UPLINK.0))?;
    let files = inside.file("");
    let guest = |way: Way| Guest {
        kernel: files.join("minimal"),
        cmdline: Some(way.cmdline()),
        disks: vec![Disk::readonly(files.join(ROOT))],
        net: Some(way.network()),
    };
    for way in WAYS.into_iter().filter(|way| *way != Way::Control) {
        let command = guest(way).command(way.arm(), &inside.file(VMM));
        inside.describe_command(&format!("{GROUP}, {way:?}"), way.arm(), &command)?;
    }
    eprintln!("bench: network, {} guests of each kind", inside.runs);
    interleave(inside.runs, &WAYS, |way, counts| {
        if way == Way::Control {
            return inside.control(GROUP, counts);
        }
        for (flow, value) in FLOWS.into_iter().zip(visit(inside, way, &guest(way))?) {
            inside.sample(&way.series(flow), way.arm(), value, counts)?;
        }
        Ok(())
    })
}

/// One guest: what each flow came to.
fn visit(inside: &Inside, way: Way, guest: &Guest) -> Result<Vec<f64>> {
    let mut left = if way == Way::Passt { PASST_VISITS } else { 1 };
    loop {
        left -= 1;
        let here = Address::Tcp(format!("{}:{PORT}", way.host()).parse()?).listen()?;
        let mut run = inside.start(way.arm(), guest)?;
        match flow::at_host(&mut run, &FLOWS, End { here: Some(here), there: None }) {
            Err(error) if left > 0 => eprintln!("bench: {way:?}, once more: {error:#}"),
            values => return values.with_context(|| format!("{way:?}")),
        }
    }
}

/// What the guest does, where `host` is the host's end.
///
/// # Errors
/// A stream broke.
pub(super) fn in_guest(host: &str) -> Result<()> {
    let host = host.parse().with_context(|| format!("address {host}"))?;
    flow::at_guest(&FLOWS, &End { here: None, there: Some(Address::Tcp(host)) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_leads_the_guest_to_an_address_of_the_host() {
        assert!(
            Way::Vhost
                .cmdline()
                .ends_with("ip=10.0.2.2::10.0.2.1:255.255.255.0::eth0:off BENCH_NET=10.0.2.1:5001")
        );
        assert!(Way::Passt.cmdline().ends_with("init=/init BENCH_NET=192.0.2.1:5001"));
    }

    #[test]
    fn figures_that_have_to_reach_something_are_those_without_vhost() {
        let mut records = Records::default();
        for way in WAYS {
            for flow in FLOWS {
                let (series, arm) = (way.series(flow), way.arm());
                records.take(&series, arm, if way == Way::Ours { 2.0 } else { 1.0 });
            }
        }
        let met = |flow| of_flow(flow, &records).unwrap().map(|figure| figure.met());
        assert_eq!(met(Flow::ToHost(4)), [Some(true), None, None]);
        assert_eq!(met(Flow::Echo), [Some(false), None, None]);
    }
}
