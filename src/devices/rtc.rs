//! The real-time clock: a PL031 of `vm-superio`, which tells the host's time of day (Arm DDI 0224).

use vm_superio::Rtc;
use vm_superio::rtc_pl031::NoEvents;

use crate::bus::BusDevice;

/// A clock whose registers are words. It gives no alarm.
#[derive(Default)]
pub struct Clock(Rtc<NoEvents>);

impl BusDevice for Clock {
    /// An access that is no word reads zeros.
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if let (Ok(word), Ok(offset)) = (data.try_into(), u16::try_from(offset)) {
            self.0.read(offset, word);
        }
    }

    /// An access that is no word changes nothing.
    fn write(&mut self, offset: u64, data: &[u8]) {
        if let (Ok(word), Ok(offset)) = (data.try_into(), u16::try_from(offset)) {
            self.0.write(offset, word);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{SystemTime, UNIX_EPOCH};

    use super::*;

    const DATA: u64 = 0;
    const LOAD: u64 = 8;

    fn word(clock: &mut Clock, offset: u64) -> u32 {
        let mut word = [0xff; 4];
        clock.read(offset, &mut word);
        u32::from_le_bytes(word)
    }

    fn now() -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
    }

    #[test]
    fn clock_tells_the_time_of_the_host_until_it_is_set() {
        let mut clock = Clock::default();
        let before = now();
        let told = u64::from(word(&mut clock, DATA));
        assert!((before..=now()).contains(&told), "{told}");
        clock.write(LOAD, &1000u32.to_le_bytes());
        assert!((1000..1010).contains(&word(&mut clock, DATA)));
    }

    #[test]
    fn driver_recognises_it() {
        let mut clock = Clock::default();
        let id: Vec<u32> = (0xfe0..0x1000).step_by(4).map(|at| word(&mut clock, at)).collect();
        assert_eq!(id, [0x31, 0x10, 0x04, 0, 0x0d, 0xf0, 0x05, 0xb1]);
    }

    /// S4: every register with awkward values in every width; it is a clock afterwards.
    #[test]
    fn every_register_takes_every_width() {
        let mut clock = Clock::default();
        for width in [1usize, 2, 4, 8] {
            for offset in 0..0x1000 {
                for value in [0, 1, 0x7f, 0x80, 0xff] {
                    clock.write(offset, &vec![value; width]);
                    clock.read(offset, &mut vec![0; width]);
                }
            }
        }
        let mut bytes = [0xff; 2];
        clock.read(DATA, &mut bytes);
        assert_eq!(bytes, [0; 2]);
        clock.write(LOAD, &7u32.to_le_bytes());
        assert!((7..10).contains(&word(&mut clock, DATA)));
    }
}
