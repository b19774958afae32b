//! Names of an archive as paths inside a tree.

/// Bytes of a path at most, what Linux takes.
pub(crate) const PATH_BYTES: usize = 4095;
/// Bytes of one name at most.
pub(crate) const NAME_BYTES: usize = 255;

/// Why a name of an archive is no path.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum PathError {
    #[error("the path is longer than {PATH_BYTES} bytes")]
    TooLong,
    #[error("a name in the path is longer than {NAME_BYTES} bytes")]
    NameTooLong,
    #[error("the path has a NUL byte")]
    Nul,
    #[error("the path has a `..`, which no layer needs")]
    Parent,
}

/// A path from the tree's root: its names in order, none of them empty, `.` or `..`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Path<'a>(Vec<&'a [u8]>);

impl<'a> Path<'a> {
    /// Reads the name of a member or the target of a hard link; a leading `/` means nothing.
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, PathError> {
        if bytes.len() > PATH_BYTES {
            return Err(PathError::TooLong);
        }
        let mut names = Vec::new();
        for name in bytes.split(|byte| *byte == b'/') {
            match name {
                b"" | b"." => {}
                b".." => return Err(PathError::Parent),
                _ if name.contains(&0) => return Err(PathError::Nul),
                _ if name.len() > NAME_BYTES => return Err(PathError::NameTooLong),
                _ => names.push(name),
            }
        }
        Ok(Self(names))
    }

    /// The names of the directory that holds it, and its own; `None` for the root.
    pub(crate) fn split(&self) -> Option<(&[&'a [u8]], &'a [u8])> {
        self.0.split_last().map(|(name, parent)| (parent, *name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_their_names() {
        let names: [&[u8]; 2] = [b"a", b"b"];
        for path in ["a/b", "/a/b", "./a//b/", "//a/./b/."] {
            assert_eq!(Path::parse(path.as_bytes()).unwrap().0, names, "{path}");
        }
        for root in ["", "/", ".", "./"] {
            assert_eq!(Path::parse(root.as_bytes()).unwrap().split(), None, "{root}");
        }
        assert_eq!(Path::parse(b"\xff\xfe/x").unwrap().0[0], b"\xff\xfe");
    }

    /// I1
    #[test]
    fn paths_that_lead_out_or_are_too_long_are_refused() {
        let path = |bytes: &[u8]| Path::parse(bytes).unwrap_err();
        assert_eq!(path(b"../x"), PathError::Parent);
        assert_eq!(path(b"a/../../b"), PathError::Parent);
        assert_eq!(path(b"a/.."), PathError::Parent);
        assert_eq!(path(b"a\0b"), PathError::Nul);
        assert_eq!(path(&[b'a'; 256]), PathError::NameTooLong);
        assert_eq!(path(&b"a/".repeat(2048)), PathError::TooLong);
        assert!(Path::parse(&[b'a'; 255]).is_ok());
        assert!(Path::parse(&b"a/".repeat(2047)).is_ok());
    }
}
