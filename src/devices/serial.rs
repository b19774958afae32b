//! The serial port: a 16550A of `vm-superio` between the bus and the console.

use std::convert::Infallible;
use std::io::{self, Write};
use std::sync::Arc;

use vm_superio::serial::SerialEvents;
use vm_superio::{Serial, Trigger};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::console::ConsoleOutput;
use crate::bus::BusDevice;

/// What the UART transmits goes to the console, which always takes it.
struct Transmitter(Arc<ConsoleOutput>);

impl Write for Transmitter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        bytes.iter().for_each(|byte| self.0.push(*byte));
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
}

impl<T: Trigger<E = Infallible>> SerialPort<T> {
    /// A port that raises `line` and prints to `output`.
    ///
    /// # Errors
    /// No eventfd could be made.
    pub fn new(line: T, output: Arc<ConsoleOutput>) -> io::Result<Self> {
        let input_wanted = Arc::new(EventFd::new(EFD_NONBLOCK)?);
        let events = InputWanted(input_wanted.clone());
        Ok(Self { uart: Serial::with_events(line, events, Transmitter(output)), input_wanted })
    }

    /// Readable when the guest has emptied the receive FIFO.
    pub fn input_wanted(&self) -> &Arc<EventFd> {
        &self.input_wanted
    }

    /// How many bytes of input the receive FIFO takes now: at most 64.
    pub fn input_room(&self) -> usize {
        self.uart.fifo_capacity()
    }

    /// Gives input to the guest; returns how many bytes it took.
    pub fn input(&mut self, bytes: &[u8]) -> usize {
        // An error here means a full FIFO: nothing was taken.
        self.uart.enqueue_raw_bytes(bytes).unwrap_or(0)
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
                // Neither the line nor the console can fail.
                let _ = self.uart.write(register, *byte);
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

    /// S1: input beyond the FIFO of 64 bytes is not taken, and room is announced.
    #[test]
    fn input_is_bounded_by_the_fifo_and_room_is_announced() {
        let (mut port, _) = port();
        assert_eq!(port.input(&[b'a'; 100]), 64);
        assert_eq!(port.input(b"b"), 0);
        assert_eq!(port.input_room(), 0);
        for _ in 0..64 {
            assert!(port.input_wanted().read().is_err(), "announced before the FIFO is empty");
            let mut byte = [0];
            port.read(0, &mut byte);
            assert_eq!(&byte, b"a");
        }
        assert_eq!(port.input_wanted().read().unwrap(), 1);
        assert_eq!(port.input_room(), 64);
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
