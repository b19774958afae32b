//! Functions of a kernel image, from its symbol table.

use std::ops::Range;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Lowest address that the x86_64 kernel links its text to.
const LINK_BASE: u64 = 0xffff_ffff_8000_0000;

/// Function symbols in ascending order of address.
pub(super) struct Symbols {
    functions: Vec<(u64, String)>,
    /// Where the code that runs once, at initialisation, lies.
    init: Range<u64>,
}

impl Symbols {
    /// Reads the symbol table of `kernel` with binutils' `nm`.
    pub(super) fn read(kernel: &Path) -> Result<Self> {
        let output = Command::new("nm").arg("-n").arg(kernel).output().context("run nm")?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "nm {}: {}", kernel.display(), errors.trim());
        Self::parse(&String::from_utf8_lossy(&output.stdout))
            .with_context(|| format!("symbol table of {}", kernel.display()))
    }

    /// Parses lines of `ADDRESS TYPE NAME` in ascending order of address.
    pub(super) fn parse(table: &str) -> Result<Self> {
        let mut functions = Vec::new();
        let mut init = 0..0;
        for line in table.lines() {
            let mut fields = line.split_whitespace();
            let (Some(address), Some(kind), Some(name)) =
                (fields.next(), fields.next(), fields.next())
            else {
                continue;
            };
            let address =
                u64::from_str_radix(address, 16).with_context(|| format!("line {line}"))?;
            match name {
                "_sinittext" => init.start = address,
                "_einittext" => init.end = address,
                _ if address >= LINK_BASE && matches!(kind, "t" | "T" | "w" | "W") => {
                    functions.push((address, name.to_owned()));
                }
                _ => {}
            }
        }
        ensure!(!functions.is_empty(), "it names no function");
        Ok(Self { functions, init })
    }

    /// Name of the function that `address` lies in.
    pub(super) fn name(&self, address: u64) -> &str {
        let after = self.functions.partition_point(|(start, _)| *start <= address);
        let function = after.checked_sub(1).and_then(|index| self.functions.get(index));
        function.map_or("outside the image", |(_, name)| name)
    }

    /// Addresses from the function `name` to the next one.
    pub(super) fn range(&self, name: &str) -> Option<Range<u64>> {
        let index = self.functions.iter().position(|(_, other)| other == name)?;
        let (start, _) = self.functions.get(index)?;
        let end = self.functions.iter().skip(index).find(|(address, _)| address > start)?;
        Some(*start..end.0)
    }

    /// Addresses of the functions that run once, at initialisation.
    pub(super) fn initialisers(&self) -> impl Iterator<Item = u64> {
        let inside = |address: &u64| self.init.contains(address);
        let mut addresses: Vec<u64> =
            self.functions.iter().map(|(start, _)| *start).filter(inside).collect();
        addresses.dedup();
        addresses.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "0000000000000000 D percpu\n\
        ffffffff81000000 T first\nffffffff81000000 T alias\nffffffff81000010 t second\n\
        ffffffff81000020 d data\nffffffff81000030 T _sinittext\nffffffff81000030 t setup\n\
        ffffffff81000040 T _einittext\nffffffff81000040 T last\n";

    fn symbols() -> Symbols {
        match Symbols::parse(TABLE) {
            Ok(symbols) => symbols,
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn address_inside_a_function_has_its_name() {
        assert_eq!(symbols().name(0xffff_ffff_8100_0014), "second");
        assert_eq!(symbols().name(0), "outside the image");
    }

    #[test]
    fn range_ends_where_the_next_function_starts() {
        let range = Some(0xffff_ffff_8100_0000..0xffff_ffff_8100_0010);
        assert_eq!(symbols().range("first"), range);
        assert_eq!(symbols().range("alias"), range);
        assert_eq!(symbols().range("missing"), None);
    }

    #[test]
    fn initialisers_are_the_functions_of_the_init_section() {
        assert_eq!(symbols().initialisers().collect::<Vec<_>>(), [0xffff_ffff_8100_0030]);
    }

    #[test]
    fn table_without_functions_is_refused() {
        assert!(Symbols::parse("0000000000000000 D data\n").is_err());
    }
}
