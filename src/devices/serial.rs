//! The serial port: a 16550A of `vm-superio` between the bus and the console.

use std::convert::Infallible;
use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use vm_superio::serial::SerialEvents;
use vm_superio::{Serial, Trigger};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::console::{ConsoleOutput, InputSink};
use crate::bus::{BusDevice, lock};

/// Modem control register, and its bit that connects the transmitter to the receiver.
const MODEM_CONTROL: u8 = 4;
const LOOPBACK: u8 = 1 << 4;

/// What the UART transmits goes to the console, which always takes it.
struct Transmitter(Arc<ConsoleOutput>);

impl Write for Transmitter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.push(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Tells the event loop that the guest has room for more input.
struct InputWanted(Arc<EventFd>);

impl SerialEvents for InputWanted {
    fn buffer_read(&self) {}
    fn out_byte(&self) {}
    fn tx_lost_byte(&self) {}
    fn in_buffer_empty(&self) {
        // The counter is full only when the event loop has been told anyhow.
        let _ = self.0.write(1);
    }
}

/// A serial port whose interrupts go through `T`.
pub struct SerialPort<T: Trigger<E = Infallible>> {
    uart: Serial<T, InputWanted, Transmitter>,
    input_wanted: Arc<EventFd>,
    loopback: bool,
}

impl<T: Trigger<E = Infallible>> SerialPort<T> {
    /// A port that raises `line` and prints to `output`.
    ///
    /// # Errors
    /// No eventfd could be made.
    pub fn new(line: T, output: Arc<ConsoleOutput>) -> io::Result<Self> {
        let input_wanted = Arc::new(EventFd::new(EFD_NONBLOCK)?);
        let events = InputWanted(input_wanted.clone());
        let uart = Serial::with_events(line, events, Transmitter(output));
        Ok(Self { uart, input_wanted, loopback: false })
    }

    fn write_register(&mut self, register: u8, value: u8) {
        // Neither the line nor the console can fail.
        let _ = self.uart.write(register, value);
        if register == MODEM_CONTROL {
            let before = std::mem::replace(&mut self.loopback, value & LOOPBACK != 0);
            if before && !self.loopback {
                // Input that came meanwhile was not taken, and nothing else asks for it again.
                let _ = self.input_wanted.write(1);
            }
        }
    }
}

/// Input goes to the receive FIFO of 64 bytes; in loopback mode none is taken.
impl<T: Trigger<E = Infallible> + Send> InputSink for Mutex<SerialPort<T>> {
    fn room(&self) -> usize {
        let port = lock(self);
        if port.loopback { 0 } else { port.uart.fifo_capacity() }
    }

    fn give(&self, bytes: &[u8]) -> usize {
        // An error here means a full FIFO: nothing was taken.
        lock(self).uart.enqueue_raw_bytes(bytes).unwrap_or(0)
    }

    fn wanted(&self) -> Arc<EventFd> {
        lock(self).input_wanted.clone()
    }
}

impl<T: Trigger<E = Infallible> + Send> BusDevice for SerialPort<T> {
    /// The registers are bytes; a wider access reaches one after the other.
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        for (register, byte) in (offset..).zip(data) {
            *byte = u8::try_from(register).map_or(0xff, |register| self.uart.read(register));
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        for (register, byte) in (offset..).zip(data) {
            if let Ok(register) = u8::try_from(register) {
                self.write_register(register, *byte);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[derive(Clone, Default)]
    struct Line(Arc<AtomicU32>);

    impl Trigger for Line {
        type E = Infallible;
        fn trigger(&self) -> Result<(), Infallible> {
            self.0.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }
    }

    fn port() -> (SerialPort<Line>, Arc<ConsoleOutput>) {
        let output = Arc::new(ConsoleOutput::new(true).unwrap());
        (SerialPort::new(Line::default(), output.clone()).unwrap(), output)
    }

    #[test]
    fn transmitted_bytes_reach_the_console() {
        let (mut port, output) = port();
        port.write(0, b"h");
        port.write(0, b"i");
        assert_eq!(output.last_lines(1), ["hi"]);
    }

    fn read_data(port: &Mutex<SerialPort<Line>>) -> u8 {
        let mut byte = [0];
        lock(port).read(0, &mut byte);
        byte[0]
    }

    /// S1: input beyond the FIFO of 64 bytes is not taken, and room is announced.
    #[test]
    fn input_is_bounded_by_the_fifo_and_room_is_announced() {
        let port = Mutex::new(port().0);
        assert_eq!(port.give(&[b'a'; 100]), 64);
        assert_eq!(port.give(b"b"), 0);
        assert_eq!(port.room(), 0);
        for _ in 0..64 {
            assert!(port.wanted().read().is_err(), "announced before the FIFO is empty");
            assert_eq!(read_data(&port), b'a');
        }
        assert_eq!(port.wanted().read().unwrap(), 1);
        assert_eq!(port.room(), 64);
    }

    /// S4: input that came during loopback is asked for when that ends.
    #[test]
    fn input_that_waits_for_the_end_of_loopback_is_asked_for_then() {
        let port = Mutex::new(port().0);
        lock(&port).write(4, &[LOOPBACK]);
        assert_eq!((port.room(), port.give(b"a")), (0, 0));
        lock(&port).write(0, b"l");
        lock(&port).write(4, &[LOOPBACK | 0x0b]);
        assert!(port.wanted().read().is_err(), "announced while nothing is taken");
        lock(&port).write(4, &[0x0b]);
        assert_eq!(port.wanted().read().unwrap(), 1);
        assert_eq!(port.give(b"a"), 1);
        assert_eq!(read_data(&port), b'l');
        assert_eq!(read_data(&port), b'a');
    }

    /// S4: every register with every value and every width; only what is transmitted prints.
    #[test]
    fn every_register_takes_every_value_in_every_width() {
        let (mut port, output) = port();
        for width in [1usize, 2, 4, 8] {
            for offset in 0..8 {
                for value in 0..=255u8 {
                    port.write(offset, &vec![value; width]);
                    let mut data = vec![0; width];
                    port.read(offset, &mut data);
                }
            }
        }
        // Out of loopback and divisor-latch mode it prints as before.
        port.write(4, &[0]);
        port.write(3, &[0]);
        b"\nok".iter().for_each(|byte| port.write(0, &[*byte]));
        assert_eq!(output.last_lines(1), ["ok"]);
    }
}
