//! What a file in the working directory costs: one without a name, which ends with this program.

use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::FileExt;

use rustix::fs::{Advice, fadvise};
use serde_json::{Value, json};

use crate::measure::fastest_of;

/// Bytes of the file.
const BYTES: u64 = 16 << 20;
/// Bytes of a transfer in order, and of one somewhere.
const LARGE: usize = 1 << 20;
const SMALL: usize = 4096;
/// Transfers somewhere in a round.
const MANY: u64 = 256;

/// MiB a second in order, and transfers a second at random; a member is null where it cannot be done.
pub(crate) fn all() -> Value {
    let Ok(mut file) = unnamed() else { return Value::Null };
    let mib_per_second = |nanos: Option<u64>| rate(nanos, BYTES >> 20);
    let write = fastest_of(|| write(&mut file));
    let read = fastest_of(|| read(&mut file));
    let random_write = fastest_of(|| random_write(&file));
    let random_read = fastest_of(|| random_read(&file));
    json!({
        "write": mib_per_second(write),
        "read": mib_per_second(read),
        "random_write": rate(random_write, MANY),
        "random_read": rate(random_read, MANY),
    })
}

/// So many in a second.
pub(crate) fn rate(nanos: Option<u64>, count: u64) -> Option<u64> {
    count.checked_mul(1_000_000_000)?.checked_div(nanos?)
}

fn unnamed() -> io::Result<File> {
    let name = format!("probe.{}", std::process::id());
    let file = File::options().read(true).write(true).create_new(true).open(&name)?;
    fs::remove_file(&name)?;
    Ok(file)
}

/// Writes the file until it is stored.
fn write(file: &mut File) -> io::Result<()> {
    let data = vec![0x5a; LARGE];
    file.rewind()?;
    for _ in 0..BYTES >> 20 {
        file.write_all(&data)?;
    }
    file.sync_all()
}

/// Reads the file, of which this kernel remembers nothing.
fn read(file: &mut File) -> io::Result<()> {
    let mut data = vec![0; LARGE];
    fadvise(&*file, 0, None, Advice::DontNeed)?;
    file.rewind()?;
    (0..BYTES >> 20).try_for_each(|_| file.read_exact(&mut data))
}

/// Places in the file, each once, that follow no order a disk could know.
fn places() -> impl Iterator<Item = u64> {
    let all = BYTES >> 12;
    (0..MANY).map(move |number| (number.wrapping_mul(2_654_435_761) % all) << 12)
}

/// Writes pieces, each until it is stored.
fn random_write(file: &File) -> io::Result<()> {
    let data = [0xa5; SMALL];
    places().try_for_each(|place| {
        file.write_all_at(&data, place)?;
        file.sync_data()
    })
}

/// Reads pieces, of which this kernel remembers nothing and guesses nothing.
fn random_read(file: &File) -> io::Result<()> {
    let mut data = [0; SMALL];
    fadvise(file, 0, None, Advice::DontNeed)?;
    fadvise(file, 0, None, Advice::Random)?;
    places().try_for_each(|place| file.read_exact_at(&mut data, place))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn places_are_in_the_file_and_all_different() {
        let places: BTreeSet<u64> = places().collect();
        assert_eq!(u64::try_from(places.len()).unwrap(), MANY);
        assert!(places.iter().all(|place| place % 4096 == 0 && *place < BYTES));
    }

    #[test]
    fn rates_are_of_a_second() {
        assert_eq!(rate(Some(500_000_000), 16), Some(32));
        assert_eq!(rate(None, 16), None);
        assert_eq!(rate(Some(0), 16), None);
    }
}
