//! How a container is found by what its user calls it.

use std::fs;
use std::io;
use std::path::PathBuf;

use super::{Container, Containers, LOCK, Status};
use crate::container::{ContainerError, Id};

/// The containers that a word may mean.
#[derive(Default)]
struct Candidates {
    /// Those with that name: one, and dead ones that are to be removed.
    named: Vec<Id>,
    /// Those whose identifier begins so.
    others: Vec<Id>,
}

impl Containers {
    /// The container called `key`: its name, its identifier or the beginning of that.
    ///
    /// # Errors
    /// There is none, or several begin so.
    pub fn find(&self, key: &str) -> Result<(Container, Status), ContainerError> {
        let candidates = self.candidates(key)?;
        if let Some(one) = self.there(&candidates.named).next() {
            return one;
        }
        let mut matching = self.there(&candidates.others);
        match (matching.next(), matching.next()) {
            (Some(one), None) => one,
            (None, _) => Err(ContainerError::NoSuch(key.to_owned())),
            (Some(_), Some(_)) => Err(ContainerError::Ambiguous(key.to_owned())),
        }
    }

    /// Where the sockets of the container called `key` are, or were when it ran. Nothing where it takes a closer
    /// look ([`Containers::find`]) to tell which is meant.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn sockets(&self, key: &str) -> Result<Option<PathBuf>, ContainerError> {
        let Candidates { named, others } = self.candidates(key)?;
        let meant = if named.is_empty() { others } else { named };
        Ok(match meant.as_slice() {
            [only] => Some(self.runtime(only)),
            _ => None,
        })
    }

    fn candidates(&self, key: &str) -> Result<Candidates, ContainerError> {
        let mut found = Candidates::default();
        for id in self.directories()? {
            let begins_so = !key.is_empty() && id.as_str().starts_with(key);
            if self.name(&id)?.is_some_and(|name| name == key) {
                found.named.push(id);
            } else if begins_so {
                found.others.push(id);
            }
        }
        Ok(found)
    }

    /// The name of a container: the text of its lock, or where a power cut took that, what its specification says.
    fn name(&self, id: &Id) -> Result<Option<String>, ContainerError> {
        let path = self.directory(id).join(LOCK);
        match fs::read_to_string(&path) {
            Ok(name) if !name.is_empty() => Ok(Some(name)),
            Ok(_) => Ok(self.entry(id)?.map(|found| found.spec.name.as_str().to_owned())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(ContainerError::file(&path, e)),
        }
    }

    /// Those of `ids` that are there, with what dead keepers left of them dealt with.
    fn there(
        &self,
        ids: &[Id],
    ) -> impl Iterator<Item = Result<(Container, Status), ContainerError>> {
        ids.iter().filter_map(|id| {
            let look = || -> Result<Option<_>, ContainerError> {
                let Some(container) = self.entry(id)? else { return Ok(None) };
                Ok(self.reconcile(&container)?.map(|status| (container, status)))
            };
            look().transpose()
        })
    }
}
