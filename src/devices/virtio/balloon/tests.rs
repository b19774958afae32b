use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::bus::BusDevice;
use crate::devices::virtio::device::F_INDIRECT_DESC;
use crate::devices::virtio::testing::{
    DATA, Driver, HIGH_END, HIGH_START, LOW_END, WRITE, default_rings, reg,
};
use crate::devices::virtio::throttle::Throttles;

const INFLATE: usize = 0;
const DEFLATE: usize = 1;
const REPORTING: usize = 3;

/// Where the tests put what the balloon reads; the pages they give away lie above.
const LIST: u64 = DATA;
const FREE: u64 = DATA + 0x2_0000;
const FILLING: u8 = 0xa5;

struct Machine {
    driver: Driver,
    counters: Arc<BalloonCounters>,
}

impl Machine {
    fn new(keys: &str) -> Self {
        let balloon = Balloon::open(&keys.parse().unwrap()).unwrap();
        let counters = balloon.counters.clone();
        let mut driver = Driver::new(Box::new(balloon));
        driver.set_queue_size(64);
        driver.start(0);
        let machine = Self { driver, counters };
        machine.fill();
        machine
    }

    /// Fills all memory the tests give away.
    fn fill(&self) {
        for (start, end) in [(FREE, LOW_END), (HIGH_START, HIGH_END)] {
            self.driver.poke(start, &vec![FILLING; usize::try_from(end - start).unwrap()]);
        }
    }

    fn list(&self, frames: &[u32]) -> u32 {
        let bytes: Vec<u8> = frames.iter().flat_map(|frame| frame.to_le_bytes()).collect();
        self.driver.poke(LIST, &bytes);
        u32::try_from(bytes.len()).unwrap()
    }

    /// Puts `frames` into the balloon, or takes them out.
    fn request(&mut self, queue: usize, frames: &[u32]) {
        let len = self.list(frames);
        let head = self.driver.chain(queue, &[(LIST, len, 0)]);
        self.driver.kick(queue);
        assert_eq!(self.driver.used(queue), [(head, 0)]);
    }

    fn report(&mut self, parts: &[(u64, u32)]) {
        let parts: Vec<_> = parts.iter().map(|(addr, len)| (*addr, *len, WRITE)).collect();
        let head = self.driver.chain(REPORTING, &parts);
        self.driver.kick(REPORTING);
        assert_eq!(self.driver.used(REPORTING), [(head, 0)]);
    }

    /// The pages that read as zeros; no page may be torn.
    fn gone(&self) -> BTreeSet<u64> {
        let gone = |page: &u64| {
            let bytes = self.driver.peek(*page, 4096);
            assert!(bytes.iter().all(|byte| *byte == bytes[0]), "{page:#x} is torn");
            bytes[0] == 0
        };
        pages().filter(gone).collect()
    }

    fn config(&mut self) -> [u32; 2] {
        [self.driver.read(0x100), self.driver.read(0x104)]
    }
}

/// The pages the tests give away.
fn pages() -> impl Iterator<Item = u64> {
    (FREE..LOW_END).chain(HIGH_START..HIGH_END).step_by(4096)
}

fn frame(addr: u64) -> u32 {
    u32::try_from(addr >> 12).unwrap()
}

#[test]
fn features_and_queues_are_those_that_were_asked_for() {
    let all = feature::STATS_VQ | feature::DEFLATE_ON_OOM | feature::PAGE_REPORTING;
    for (keys, features, queues) in [
        ("size=0M", feature::DEFLATE_ON_OOM | feature::PAGE_REPORTING, 3),
        ("statistics=1s", all, 4),
        ("deflate-on-oom=off,free-page-reporting=off", 0, 2),
    ] {
        let balloon = Balloon::open(&keys.parse().unwrap()).unwrap();
        assert_eq!(balloon.features(), RING_FEATURES | features, "{keys}");
        assert_eq!(balloon.queue_sizes().len(), queues, "{keys}");
    }
}

/// Section 5.5.2: without statistics the reports come by the queue that would be theirs.
#[test]
fn queues_are_counted_without_those_the_driver_did_not_accept() {
    let all = feature::STATS_VQ | feature::PAGE_REPORTING;
    let roles = |features| (0..5).map_while(|index| Role::of(index, features)).collect::<Vec<_>>();
    let (inflate, deflate) = (Role::Inflate, Role::Deflate);
    assert_eq!(roles(0), [inflate, deflate]);
    assert_eq!(roles(feature::PAGE_REPORTING), [inflate, deflate, Role::Reporting]);
    assert_eq!(roles(feature::STATS_VQ), [inflate, deflate, Role::Statistics]);
    assert_eq!(roles(all), [inflate, deflate, Role::Statistics, Role::Reporting]);

    let mut m = Machine::new("size=0M");
    let head = m.driver.chain(2, &[(FREE, 4096, WRITE)]);
    m.driver.kick(2);
    assert_eq!(m.driver.used(2), [(head, 0)]);
    assert_eq!(m.gone(), BTreeSet::from([FREE]));
}

#[test]
fn pages_put_into_the_balloon_go_back_to_the_host_and_no_others() {
    let mut m = Machine::new("statistics=1s");
    let named = [FREE + 0x3000, FREE, FREE + 0x1000, HIGH_START, LOW_END - 4096, HIGH_END - 4096];
    m.request(INFLATE, &named.map(frame));
    assert_eq!(m.gone(), BTreeSet::from(named));
    assert_eq!(m.counters.inflated_bytes.get(), 6 * PAGE);
    assert_eq!(m.counters.discarded_bytes.get(), 6 * PAGE);
    m.request(DEFLATE, &named.map(frame));
    assert_eq!(m.counters.deflated_bytes.get(), 6 * PAGE);
    // They are the guest's again as soon as it writes.
    m.fill();
    assert_eq!(m.gone(), BTreeSet::new());
}

#[test]
fn page_numbers_may_be_split_anywhere_between_descriptors() {
    let mut m = Machine::new("statistics=1s");
    m.list(&[FREE, FREE + 0x2000, HIGH_START].map(frame));
    m.driver.chain(INFLATE, &[(LIST, 1, 0), (LIST + 1, 6, 0), (LIST + 7, 5, 0)]);
    m.driver.kick(INFLATE);
    assert_eq!(m.gone(), BTreeSet::from([FREE, FREE + 0x2000, HIGH_START]));
}

#[test]
fn reported_memory_goes_back_to_the_host_in_whole_pages() {
    let mut m = Machine::new("statistics=1s");
    m.report(&[(FREE, 0x2000), (FREE + 0x4fff, 0x1001), (HIGH_START + 1, 0x1fff), (DATA, 100)]);
    let given = [FREE, FREE + 0x1000, FREE + 0x5000, HIGH_START + 0x1000];
    assert_eq!(m.gone(), BTreeSet::from(given));
    assert_eq!(m.counters.discarded_bytes.get(), 4 * PAGE);
    assert_eq!(m.counters.reported_bytes.get(), 0x2000 + 0x1001 + 0x1fff + 100);
    assert_eq!(m.counters.ignored_bytes.get(), 1 + 0xfff + 100);
}

/// S6: page numbers beyond memory, in its hole, given twice: those of memory are given back once.
#[test]
fn page_numbers_without_a_page_are_ignored_and_duplicates_count_once() {
    let mut m = Machine::new("statistics=1s");
    let nowhere = [frame(LOW_END), frame(HIGH_START) - 1, frame(HIGH_END), 0xd_0000, u32::MAX];
    let [a, b] = [FREE, HIGH_START].map(frame);
    m.request(INFLATE, &[&nowhere[..], &[a, b, a, a]].concat());
    assert_eq!(m.gone(), BTreeSet::from([FREE, HIGH_START]));
    assert_eq!(m.counters.discarded_bytes.get(), 2 * PAGE);
    assert_eq!(m.counters.ignored_bytes.get(), 7 * PAGE);
    assert_eq!(m.counters.host_errors.get(), 0);
}

/// S6: a guest that gives its own rings away breaks this device at most, and a reset brings it back.
#[test]
fn guest_that_gives_its_rings_away_harms_its_own_device_at_most() {
    for queue in [INFLATE, REPORTING] {
        let mut m = Machine::new("statistics=1s");
        let rings = default_rings(queue);
        let frames: Vec<u32> = (0..16).map(|n| frame(rings.desc) + n).collect();
        match queue {
            INFLATE => m.list(&frames),
            _ => 0,
        };
        let part = if queue == INFLATE { (LIST, 64, 0) } else { (rings.desc, 0x1_0000, WRITE) };
        m.driver.chain(queue, &[part]);
        m.driver.kick(queue);
        for _ in 0..3 {
            m.driver.kick(queue);
        }
        m.driver.start(0);
        m.request(INFLATE, &[frame(FREE)]);
        assert_eq!(m.gone(), BTreeSet::from([FREE]));
    }
}

/// S6: all of memory, by pages and by reports, again and again.
#[test]
fn all_memory_can_be_given_away_and_the_device_works_on() {
    let mut m = Machine::new("statistics=1s");
    let all: Vec<u32> = pages().map(frame).collect();
    for _ in 0..3 {
        m.fill();
        all.chunks(1024).for_each(|frames| m.request(INFLATE, frames));
        assert_eq!(m.gone().len(), all.len());
        m.fill();
        let free = u32::try_from(LOW_END - FREE).unwrap();
        m.report(&[(FREE, free), (HIGH_START, 2 << 20), (HIGH_START, 2 << 20), (FREE, 4096)]);
        assert_eq!(m.gone().len(), all.len());
    }
    assert!(!m.driver.needs_reset());
}

/// S6: a request may name as many pages as it likes, of which so many are looked at.
#[test]
fn request_for_a_gibibyte_of_page_numbers_costs_no_more_than_its_limit() {
    let mut m = Machine::new("statistics=1s");
    m.driver.poke(HIGH_START, &vec![0xff; 1 << 20]);
    m.list(&[frame(FREE)]);
    m.driver.poke(DATA + 0x1000, &[0; 4096]);
    let mut parts = vec![(LIST, 4, 0)];
    parts.extend([(HIGH_START, 1 << 20, 0); 63]);
    let head = m.driver.chain(INFLATE, &parts);
    m.driver.kick(INFLATE);
    assert_eq!(m.driver.used(INFLATE), [(head, 0)]);
    assert!(m.gone().contains(&FREE));
    assert_eq!(m.counters.discarded_bytes.get(), PAGE);

    // A page named behind the limit stays.
    let frames = [vec![u32::MAX; 1024], vec![frame(FREE + 0x1000)]].concat();
    let len = m.list(&frames);
    m.driver.chain(INFLATE, &[(LIST, len, 0)]);
    m.driver.kick(INFLATE);
    assert!(!m.gone().contains(&(FREE + 0x1000)));
}

/// S6: one wake gives back so much; the rest is done in others, none of it lost.
#[test]
fn flood_of_requests_is_served_in_turns() {
    let mut m = Machine::new("statistics=1s");
    m.driver.set_queue_size(64);
    m.driver.start(0);
    let len = m.list(&pages().map(frame).collect::<Vec<_>>());
    for _ in 0..64 {
        m.driver.chain(INFLATE, &[(LIST, len, 0)]);
    }
    m.driver.transport.process_queue(INFLATE);
    let first = m.driver.used(INFLATE).len();
    assert!((1..64).contains(&first), "{first} of 64 in one turn");
    m.driver.run();
    assert_eq!(first + m.driver.used(INFLATE).len(), 64);
}

/// S6: requests that are none break the device until it is reset.
#[test]
fn requests_of_a_wrong_form_break_the_device_until_reset() {
    type Parts = &'static [(u64, u32, u16)];
    let cases: [(usize, Parts); 9] = [
        (INFLATE, &[(LIST, 3, 0)]),
        (INFLATE, &[(LIST, 4, 0), (LIST, 1, 0)]),
        (INFLATE, &[(LIST, 4, WRITE)]),
        (DEFLATE, &[(LIST, 4, 0), (LIST, 4, WRITE)]),
        (DEFLATE, &[(LIST, 5, 0)]),
        (STATISTICS, &[(LIST, 10, 0), (LIST, 10, WRITE)]),
        (REPORTING, &[(FREE, 4096, 0)]),
        (REPORTING, &[(FREE, 4096, 0), (FREE + 4096, 4096, WRITE)]),
        (REPORTING, &[(FREE, 4096, WRITE), (LOW_END - 4096, 8192, WRITE)]),
    ];
    for (queue, parts) in cases {
        let mut m = Machine::new("statistics=1s");
        m.list(&[frame(FREE), frame(FREE + 4096)]);
        m.driver.chain(queue, parts);
        m.driver.kick(queue);
        assert!(m.driver.needs_reset(), "{queue} {parts:x?}");
        assert_eq!(m.gone(), BTreeSet::new(), "{queue} {parts:x?}");
        m.driver.start(0);
        m.request(INFLATE, &[frame(FREE)]);
    }
}

fn any_frame() -> impl Strategy<Value = u32> {
    prop_oneof![
        4 => frame(FREE)..frame(LOW_END),
        4 => frame(HIGH_START)..frame(HIGH_END),
        // Around the ends of memory, and anywhere else that is none.
        1 => frame(LOW_END)..frame(HIGH_START),
        1 => frame(HIGH_END)..=u32::MAX,
        1 => Just(u32::MAX),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// S6: any list of pages costs exactly the pages it names.
    #[test]
    fn any_list_of_pages_gives_back_exactly_those_it_names(
        frames in prop::collection::vec(any_frame(), 1..300),
        run in any_frame(), count in 0u32..200,
        cut in 1u32..12,
    ) {
        let mut m = Machine::new("statistics=1s");
        let mut frames = frames;
        frames.extend((0..count).filter_map(|n| run.checked_add(n)));
        let len = m.list(&frames);
        let parts = [(LIST, cut.min(len - 1).max(1), 0)];
        let rest = len - parts[0].1;
        let parts = [parts[0], (LIST + u64::from(parts[0].1), rest, 0)];
        m.driver.chain(INFLATE, &parts);
        m.driver.kick(INFLATE);
        let named: BTreeSet<u64> = frames.iter().map(|frame| u64::from(*frame) * PAGE).collect();
        let expected: BTreeSet<u64> = pages().filter(|page| named.contains(page)).collect();
        prop_assert_eq!(&m.gone(), &expected);
        let given = u64::try_from(expected.len()).unwrap() * PAGE;
        prop_assert_eq!(m.counters.discarded_bytes.get(), given);
        prop_assert_eq!(m.counters.ignored_bytes.get() + given, m.counters.inflated_bytes.get());
    }

    /// S6: any report costs exactly the whole pages inside its parts.
    #[test]
    fn any_report_gives_back_exactly_the_whole_pages_inside_its_parts(
        parts in prop::collection::vec((FREE..LOW_END, 1u32..0x8000), 1..20),
    ) {
        let mut m = Machine::new("statistics=1s");
        let parts: Vec<(u64, u32)> = parts
            .into_iter()
            .map(|(addr, len)| (addr, len.min(u32::try_from(LOW_END - addr).unwrap())))
            .collect();
        m.report(&parts);
        let inside = |page: &u64| {
            parts.iter().any(|(at, len)| at <= page && page + PAGE <= at + u64::from(*len))
        };
        prop_assert_eq!(m.gone(), pages().filter(inside).collect::<BTreeSet<_>>());
    }
}

#[test]
fn target_is_what_was_asked_for_and_a_change_is_told() {
    let mut m = Machine::new("size=64M,statistics=1s");
    assert_eq!(m.config(), [64 << 8, 0]);
    assert_eq!(m.counters.target_bytes.get(), 64 << 20);
    m.driver.interrupts();
    let generation = m.driver.read(0xfc);
    m.driver.transport.update(&Change::BalloonTarget(64)).unwrap();
    assert_eq!((m.driver.interrupts(), m.driver.read(0xfc)), (0, generation));
    m.driver.transport.update(&Change::BalloonTarget(3)).unwrap();
    assert_eq!((m.driver.interrupts(), m.driver.read(0xfc)), (1, generation + 1));
    assert_eq!(m.driver.read(reg::INTERRUPT_STATUS), 2);
    assert_eq!(m.config(), [3 << 8, 0]);
    m.driver.transport.update(&Change::BalloonTarget(u32::MAX)).unwrap();
    assert_eq!(m.config(), [u32::MAX, 0]);
    assert!(m.driver.transport.update(&Change::DiskSize).is_err());
    // A reset changes what the driver said, and not what the user wants.
    m.driver.transport.update(&Change::BalloonTarget(5)).unwrap();
    m.driver.start(0);
    assert_eq!(m.config(), [5 << 8, 0]);
}

#[test]
fn driver_at_work_writes_actual_and_nothing_else() {
    let mut m = Machine::new("size=1M");
    m.driver.write(0x104, 0x1234_5678);
    assert_eq!(m.config(), [256, 0x1234_5678]);
    assert_eq!(m.counters.actual_bytes.get(), 0x1234_5678 * PAGE);
    m.driver.write(0x100, 7);
    m.driver.transport.write(0x107, &[0xff, 0xff]);
    assert_eq!(m.config(), [256, 0xff34_5678]);
    m.driver.transport.write(0x102, &[1, 2, 3, 4]);
    assert_eq!(m.config(), [256, 0xff34_0403]);
    m.driver.transport.write(u64::MAX, &[1]);
    m.driver.write(reg::STATUS, 0);
    assert_eq!((m.config(), m.counters.actual_bytes.get()), ([256, 0], 0));
    m.driver.write(0x104, 9);
    assert_eq!(m.config(), [256, 0]);
}

fn statistic(tag: u16, value: u64) -> Vec<u8> {
    [&tag.to_le_bytes()[..], &value.to_le_bytes()].concat()
}

impl Machine {
    /// A machine that asks as often as it can.
    fn asking() -> Self {
        let mut balloon = Balloon::open(&"statistics=1s".parse().unwrap()).unwrap();
        balloon.ask_every(Duration::from_millis(1));
        let counters = balloon.counters.clone();
        let driver = Driver::started(Box::new(balloon), F_INDIRECT_DESC);
        driver.interrupts();
        Self { driver, counters }
    }

    fn wait_for_question(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.driver.run_backend() == 0 {
            assert!(Instant::now() < deadline, "nobody asks");
            std::thread::sleep(Duration::from_micros(100));
        }
    }
}

#[test]
fn statistics_are_kept_and_asked_for_again_when_the_time_has_come() {
    let mut m = Machine::asking();
    assert_eq!(m.driver.run_backend(), 0, "there is no buffer to ask with");
    for round in 1..4u64 {
        // In any order, with one that is unknown, and a rest that is no statistic.
        let all: Vec<u8> = (0..12).rev().flat_map(|tag| statistic(tag, round * 100 + 7)).collect();
        m.driver.poke(LIST, &[&all[..], &statistic(4, round << 40), &[1, 2, 3]].concat());
        let head = m.driver.chain(STATISTICS, &[(LIST, 60, 0), (LIST + 60, 73, 0)]);
        m.driver.kick(STATISTICS);
        assert_eq!((m.driver.used(STATISTICS), m.driver.interrupts()), (vec![], 0));
        assert_eq!(m.counters.statistics.get(), round);
        assert_eq!(m.counters.free_bytes.get(), round << 40);
        assert_eq!(m.counters.total_bytes.get(), round * 100 + 7);
        assert_eq!(m.counters.huge_page_failures.get(), round * 100 + 7);
        m.wait_for_question();
        assert_eq!(m.driver.used(STATISTICS), [(head, 0)]);
        assert_eq!(m.driver.interrupts(), 1);
    }
    let mut seen = Vec::new();
    m.counters.each(&mut |name, number| seen.push((name, number)));
    assert!(seen.contains(&("free_bytes", 3 << 40)), "{seen:?}");
}

/// S6: statistics of gigabytes, and more buffers than one.
#[test]
fn statistics_beyond_measure_are_read_in_part_and_one_buffer_is_kept() {
    let mut m = Machine::asking();
    m.driver.poke(LIST, &statistic(5, 77));
    m.driver.set_queue_size(64);
    m.driver.start(0);
    let mut parts = vec![(LIST, 10, 0)];
    parts.extend([(HIGH_START, 2 << 20, 0); 40]);
    let first = m.driver.chain(STATISTICS, &parts);
    let others: Vec<u16> = (0..3).map(|_| m.driver.chain(STATISTICS, &[(LIST, 10, 0)])).collect();
    m.driver.kick(STATISTICS);
    assert_eq!(m.counters.total_bytes.get(), 77);
    assert_eq!(m.driver.used(STATISTICS), [(first, 0), (others[0], 0), (others[1], 0)]);
    m.wait_for_question();
    assert_eq!(m.driver.used(STATISTICS), [(others[2], 0)]);

    // The buffer that is kept is given again.
    let head = m.driver.chain(STATISTICS, &[(LIST, 10, 0)]);
    m.driver.offer(STATISTICS, head);
    m.driver.kick(STATISTICS);
    assert!(m.driver.needs_reset());
}

#[test]
fn reset_while_a_buffer_is_kept_asks_nobody() {
    let mut m = Machine::asking();
    m.driver.chain(STATISTICS, &[(LIST, 10, 0)]);
    m.driver.kick(STATISTICS);
    m.driver.start(0);
    std::thread::sleep(Duration::from_millis(5));
    assert_eq!(m.driver.run_backend(), 0);
    assert!(m.driver.used(STATISTICS).is_empty());
    let head = m.driver.chain(STATISTICS, &[(LIST, 10, 0)]);
    m.driver.kick(STATISTICS);
    m.wait_for_question();
    assert_eq!(m.driver.used(STATISTICS), [(head, 0)]);
}

/// What is not reset gives the buffer back, to be found again.
#[test]
fn deactivation_gives_the_kept_buffer_back_to_the_queue() {
    let mut balloon = Balloon::open(&"statistics=1s".parse().unwrap()).unwrap();
    let mut m = Machine::new("statistics=1s");
    m.driver.chain(STATISTICS, &[(LIST, 10, 0)]);
    let activation = |queues| Activation {
        mem: m.driver.mem.clone(),
        queues,
        features: feature::STATS_VQ,
        signal: m.driver.transport.signal().clone(),
        throttles: Throttles::default(),
    };
    balloon.activate(activation((0..4).map(|queue| m.driver.live_queue(queue)).collect()));
    balloon.process_queue(STATISTICS).unwrap();
    let queues = balloon.deactivate().unwrap();
    assert!(balloon.deactivate().is_none());
    balloon.activate(activation(queues));
    balloon.process_queue(STATISTICS).unwrap();
    assert_eq!(balloon.counters.statistics.get(), 2);
    let mut wanted = Vec::new();
    balloon.backend_fds(&mut wanted);
    assert_eq!(wanted.len(), 1);
}
