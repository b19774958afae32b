//! The registers by which a guest ends: keyboard controller reset, ACPI sleep and reset
//! registers, and the panic notification port.

use std::sync::Arc;

use vm_superio::{I8042Device, Trigger};

use crate::bus::BusDevice;

/// How a guest asks for its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerEvent {
    /// Power off.
    PowerOff,
    /// Reset: what Linux does on reboot.
    Reset,
    /// The guest's kernel says that it panicked.
    Panic,
}

/// Who hears of it.
pub trait PowerSink: Send + Sync {
    /// The guest asked for `event`.
    fn request(&self, event: PowerEvent);
}

struct ResetLine(Arc<dyn PowerSink>);

impl Trigger for ResetLine {
    type E = std::convert::Infallible;

    fn trigger(&self) -> Result<(), Self::E> {
        self.0.request(PowerEvent::Reset);
        Ok(())
    }
}

/// The part of a keyboard controller that resets the machine: command 0xfe to port 0x64.
pub struct I8042(I8042Device<ResetLine>);

impl I8042 {
    /// A controller that reports resets to `sink`.
    pub fn new(sink: Arc<dyn PowerSink>) -> Self {
        Self(I8042Device::new(ResetLine(sink)))
    }
}

impl BusDevice for I8042 {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0xff);
        if let ([byte], Ok(offset)) = (data, u8::try_from(offset)) {
            *byte = self.0.read(offset);
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let (&[byte], Ok(offset)) = (data, u8::try_from(offset)) {
            let Ok(()) = self.0.write(offset, byte);
        }
    }
}

/// A byte-wide register of which one value asks for the machine's end.
///
/// It serves the ACPI sleep control register (ACPI 6.5, section 4.8.3.7) and the ACPI reset
/// register (section 4.8.3.6). It reads as zero, and so do the ports behind it, which take any
/// value: the ACPI sleep status register is one.
pub struct PowerRegister {
    value: u8,
    event: PowerEvent,
    sink: Arc<dyn PowerSink>,
}

impl PowerRegister {
    /// A register that reports `event` to `sink` when `value` is written.
    pub fn new(value: u8, event: PowerEvent, sink: Arc<dyn PowerSink>) -> Self {
        Self { value, event, sink }
    }
}

impl BusDevice for PowerRegister {
    fn read(&mut self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if offset == 0 && data == [self.value] {
            self.sink.request(self.event);
        }
    }
}

/// The panic notification port, as QEMU's pvpanic: reads tell which events it understands.
pub struct PanicPort(Arc<dyn PowerSink>);

impl PanicPort {
    const PANICKED: u8 = 1;

    /// A port that reports panics to `sink`.
    pub fn new(sink: Arc<dyn PowerSink>) -> Self {
        Self(sink)
    }
}

impl BusDevice for PanicPort {
    fn read(&mut self, _offset: u64, data: &mut [u8]) {
        data.fill(Self::PANICKED);
    }

    fn write(&mut self, _offset: u64, data: &[u8]) {
        if let &[event] = data
            && event & Self::PANICKED != 0
        {
            self.0.request(PowerEvent::Panic);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::bus::lock;

    #[derive(Default)]
    struct Heard(Mutex<Vec<PowerEvent>>);

    impl PowerSink for Heard {
        fn request(&self, event: PowerEvent) {
            lock(&self.0).push(event);
        }
    }

    /// S4, K10: of all values of all widths, exactly one asks for the end.
    fn values_that_end(device: &mut dyn BusDevice, offset: u64, heard: &Heard) -> Vec<u8> {
        let mut ending = Vec::new();
        for value in 0..=255u8 {
            for width in [1usize, 2, 4, 8] {
                device.write(offset, &vec![value; width]);
                device.read(offset, &mut vec![0; width]);
                let events = std::mem::take(&mut *lock(&heard.0));
                if !events.is_empty() {
                    assert_eq!(width, 1, "a write of {width} bytes ended the machine");
                    ending.push(value);
                }
            }
        }
        ending
    }

    #[test]
    fn one_command_of_the_keyboard_controller_resets() {
        let heard = Arc::new(Heard::default());
        let mut device = I8042::new(heard.clone());
        assert_eq!(values_that_end(&mut device, 4, &heard), [0xfe]);
        for offset in 0..4 {
            assert!(values_that_end(&mut device, offset, &heard).is_empty(), "offset {offset}");
        }
    }

    #[test]
    fn one_value_of_a_power_register_ends_the_machine() {
        let heard = Arc::new(Heard::default());
        let mut device = PowerRegister::new(0x34, PowerEvent::PowerOff, heard.clone());
        assert_eq!(values_that_end(&mut device, 0, &heard), [0x34]);
        assert!(values_that_end(&mut device, 1, &heard).is_empty());
    }

    #[test]
    fn the_panic_bit_reports_a_panic_and_can_be_discovered() {
        let heard = Arc::new(Heard::default());
        let mut device = PanicPort::new(heard.clone());
        let mut byte = [0];
        device.read(0, &mut byte);
        assert_eq!(byte, [1]);
        let ending = values_that_end(&mut device, 0, &heard);
        assert_eq!(ending.len(), 128);
        assert!(ending.iter().all(|value| value & 1 == 1));
    }
}
