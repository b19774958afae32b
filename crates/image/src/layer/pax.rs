//! The records of a PAX extended header: what it says in place of the header after it.

use super::fault::Fault;
use super::sparse::Stretch;
use crate::tree::Xattr;

/// What an extended header says.
#[derive(Debug, Default)]
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    /// Seconds and nanoseconds.
    pub(super) mtime: Option<(i64, u32)>,
    /// In the order of the records.
    pub(super) xattrs: Vec<Xattr>,
    pub(super) sparse: PaxSparse,
}

/// What it says of a file with holes, in any of three forms (0.0, 0.1 and 1.0).
#[derive(Debug, Default)]
pub(super) struct PaxSparse {
    pub(super) name: Option<Vec<u8>>,
    /// The size of the file with its holes.
    pub(super) size: Option<u64>,
    /// The stretches of data of forms 0.0 and 0.1.
    pub(super) stretches: Vec<Stretch>,
    /// Form 1.0: the stretches stand at the beginning of the data.
    pub(super) in_data: bool,
    /// There is a map in form 0.0 or 0.1, perhaps an empty one.
    pub(super) has_map: bool,
    offset: Option<u64>,
}

impl Pax {
    /// Reads all records; one that cannot be read makes the archive unusable, as what follows cannot
    /// be told apart any more.
    pub(super) fn parse(mut records: &[u8]) -> Result<Self, Fault> {
        let mut pax = Self::default();
        // Some writers fill the last block with NUL and count it.
        while records.first().is_some_and(|byte| *byte != 0) {
            let (key, value, rest) =
                record(records).ok_or(Fault::Tar("an extended header cannot be read"))?;
            pax.set(key, value).ok_or(Fault::Tar("a record of an extended header is wrong"))?;
            records = rest;
        }
        Ok(pax)
    }

    /// Nothing for a value that does not fit its key. An empty value is that of the header.
    fn set(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
            self.xattrs.push(Xattr { name: name.into(), value: value.into() });
            return Some(());
        }
        if let Some(key) = key.strip_prefix(b"GNU.sparse.") {
            return self.sparse.set(key, value);
        }
        let words = || (!value.is_empty()).then(|| value.to_vec());
        let count = || if value.is_empty() { Some(None) } else { number(value).map(Some) };
        match key {
            b"path" => self.path = words(),
            b"linkpath" => self.link = words(),
            b"size" => self.size = count()?,
            b"uid" => self.uid = count()?,
            b"gid" => self.gid = count()?,
            b"mtime" if value.is_empty() => self.mtime = None,
            b"mtime" => self.mtime = Some(time(value)?),
            _ => {}
        }
        Some(())
    }
}

impl PaxSparse {
    fn set(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        match key {
            b"name" => self.name = Some(value.to_vec()),
            b"size" | b"realsize" => self.size = Some(number(value)?),
            b"major" => self.in_data = number(value)? == 1,
            b"minor" if number(value)? > 1 => return None,
            b"offset" => self.offset = Some(number(value)?),
            b"numbytes" => {
                let (offset, len) = (self.offset.take()?, number(value)?);
                self.stretches.push(Stretch { offset, len });
                self.has_map = true;
            }
            b"map" => {
                let numbers: Option<Vec<u64>> = match value {
                    b"" => Some(Vec::new()),
                    _ => value.split(|byte| *byte == b',').map(number).collect(),
                };
                let numbers = numbers?;
                let (pairs, []) = numbers.as_chunks() else { return None };
                let pairs = pairs.iter().map(|[offset, len]| (*offset, *len));
                self.stretches = pairs.map(|(offset, len)| Stretch { offset, len }).collect();
                self.has_map = true;
            }
            _ => {}
        }
        Some(())
    }
}

/// The first record's key and value, and what follows: `LENGTH KEY=VALUE\n`, where the length counts
/// all of the record and the value may hold anything.
fn record(records: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let digits = records.iter().position(|byte| *byte == b' ')?;
    let len = usize::try_from(number(records.get(..digits)?)?).ok()?;
    let (record, rest) = records.split_at_checked(len)?;
    let record = record.get(digits + 1..)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|byte| *byte == b'=')?;
    let (key, value) = record.split_at_checked(equals)?;
    let value = value.get(1..)?;
    (!key.is_empty()).then_some((key, value, rest))
}

/// A number in decimal digits and nothing else.
pub(super) fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Seconds and nanoseconds since 1970 of a decimal fraction; digits beyond the ninth are dropped.
fn time(value: &[u8]) -> Option<(i64, u32)> {
    let (negative, value) = match value.strip_prefix(b"-") {
        Some(value) => (true, value),
        None => (false, value),
    };
    let mut parts = value.splitn(2, |byte| *byte == b'.');
    let seconds = i64::try_from(number(parts.next()?)?).ok()?;
    let fraction = parts.next().unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digits = fraction.iter().map(|digit| u32::from(digit - b'0'));
    let digits = digits.chain(std::iter::repeat(0)).take(9);
    let nanoseconds = digits.fold(0, |value, digit| value * 10 + digit);
    Some(match (negative, nanoseconds) {
        (false, _) => (seconds, nanoseconds),
        (true, 0) => (-seconds, 0),
        (true, _) => (-seconds - 1, 1_000_000_000 - nanoseconds),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A record with its length.
    fn encoded(key: &str, value: &[u8]) -> Vec<u8> {
        let rest = [b" ", key.as_bytes(), b"=", value, b"\n"].concat();
        let len = (1..=6).map(|digits| digits + rest.len());
        let len = len
            .map(|len| len.to_string())
            .find(|len| len.len() + rest.len() == len.parse::<usize>().unwrap());
        [len.unwrap().as_bytes(), &rest].concat()
    }

    #[test]
    fn records_are_read_by_their_length() {
        let value = b"a\nb=c\0\n 9 path=x\n";
        let records = [
            encoded("SCHILY.xattr.user.x", value),
            encoded("path", b"long"),
            encoded("size", b"12"),
            encoded("comment", b"anything"),
        ];
        let pax = Pax::parse(&records.concat()).unwrap();
        assert_eq!(&*pax.xattrs[0].value, value);
        assert_eq!((pax.path.as_deref(), pax.size), (Some(&b"long"[..]), Some(12)));
        let emptied = [&records.concat()[..], &encoded("path", b"")].concat();
        assert_eq!(Pax::parse(&emptied).unwrap().path, None);
    }

    #[test]
    fn times_have_nanoseconds_and_may_be_before_1970() {
        assert_eq!(time(b"1700000000.123456789"), Some((1_700_000_000, 123_456_789)));
        assert_eq!(time(b"5.5"), Some((5, 500_000_000)));
        assert_eq!(time(b"5.1234567899"), Some((5, 123_456_789)));
        assert_eq!(time(b"-1.25"), Some((-2, 750_000_000)));
        assert_eq!(time(b"-3"), Some((-3, 0)));
        for wrong in [&b""[..], b"-", b".5", b"1.x", b"1e9", b"99999999999999999999"] {
            assert_eq!(time(wrong), None);
        }
    }

    /// I7
    #[test]
    fn records_that_lie_about_their_length_are_refused() {
        let wrong = [
            &b"5 path=abc\n"[..],
            b"99 path=abc\n",
            b"11 path=abcX",
            b"-1 path=abc\n",
            b"18446744073709551616 a=b\n",
            b" path=abc\n",
            b"7 path\n",
            b"5 =b\n",
            b"12 size=12x\n",
            b"11 size=-1\n",
            b"23 GNU.sparse.map=1,2,3\n",
            b"22 GNU.sparse.numbytes=1\n",
        ];
        for records in wrong {
            assert!(Pax::parse(records).is_err(), "{}", records.escape_ascii());
        }
    }
}
