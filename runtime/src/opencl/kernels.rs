//! Kernels on a device, each built once for all artifacts that need it.
//!
//! A driver takes far longer for a program than for one more kernel in it, so what is missing becomes one program: of an
//! artifact when it is loaded, or of several before that ([`Kernels::add`]).

use super::KernelStore;
use super::driver::{Device, Driver, Failure};
use super::session::{OpenClSession, failure, link};
use super::stream::Stream;
use crate::error::ExecError;
use crate::executor::LoadOptions;
use lockstep_isa::Artifact;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Bytes of the hash before what a store keeps.
const HASH_BYTES: usize = 32;
/// Most characters of a build log in an error.
const LOG_CHARS: usize = 400;

/// A device and the kernels that were built for it. Sessions that it loads share them.
pub struct Kernels {
    driver: Box<dyn Driver>,
    /// Whether sessions record their launches.
    pub(super) record: bool,
    /// Where a kernel is, by the text before it and then by its own.
    known: BTreeMap<String, BTreeMap<String, Place>>,
}

/// A kernel of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Number of the program.
    pub program: usize,
    /// Name of the kernel.
    pub name: String,
}

/// A kernel that is not built yet.
struct Missing {
    text: String,
    /// What needs it: the first chain.
    of: String,
}

/// A program that a store should keep once its kernels have run.
pub(super) struct New {
    program: usize,
    key: String,
}

impl New {
    /// Keeps the binary with a hash before it.
    pub fn keep(&self, driver: &mut dyn Driver, store: &dyn KernelStore) {
        if let Some(binary) = driver.binary(self.program) {
            let mut bytes = blake3::hash(&binary).as_bytes().to_vec();
            bytes.extend(binary);
            store.put(&self.key, &bytes);
        }
    }
}

impl Kernels {
    /// No kernels yet.
    pub fn new(driver: Box<dyn Driver>) -> Kernels {
        Kernels {
            driver,
            record: true,
            known: BTreeMap::new(),
        }
    }

    /// Whether sessions record the launches of a run where the device can. They do unless this is said.
    #[must_use]
    pub fn record(mut self, record: bool) -> Kernels {
        self.record = record;
        self
    }

    /// Builds what these artifacts need and is not there yet, as few programs. Loading does the same for one artifact.
    ///
    /// # Errors
    /// An artifact that contradicts itself; a kernel that does not build; a lost device.
    pub fn add(&mut self, artifacts: &[Arc<Artifact>], options: &LoadOptions) -> Result<(), ExecError> {
        let mut wanted: BTreeMap<String, (BTreeSet<String>, Vec<Missing>)> = BTreeMap::new();
        for artifact in artifacts {
            let (_, stream) = link(artifact, self.device(), options)?;
            let prelude = stream.prelude();
            let missing = self.missing(&prelude, &stream, artifact);
            let (seen, all) = wanted.entry(prelude).or_default();
            all.extend(missing.into_iter().filter(|m| seen.insert(m.text.clone())));
        }
        for (prelude, (_, missing)) in wanted.into_iter().filter(|(_, (_, m))| !m.is_empty()) {
            self.build(&prelude, missing, None)?;
        }
        Ok(())
    }

    /// Loads an artifact. What it needs and is not there yet is built, or taken from the store.
    ///
    /// # Errors
    /// An artifact that contradicts itself; too little memory; a kernel that does not build; a lost device.
    pub fn load(
        &mut self,
        artifact: Arc<Artifact>,
        store: Option<&dyn KernelStore>,
        options: &LoadOptions,
    ) -> Result<OpenClSession, ExecError> {
        OpenClSession::load(artifact, self, store, options)
    }

    /// Number of kernels.
    pub fn count(&self) -> usize {
        self.known.values().map(BTreeMap::len).sum()
    }

    /// The device.
    pub fn device(&self) -> &Device {
        self.driver.device()
    }

    /// A driver of the same device for a session.
    pub(super) fn another(&self) -> Result<Box<dyn Driver>, ExecError> {
        let device = self.device();
        let lost = |f: Failure| failure(&device.name, "queue", device.memory_bytes, f);
        self.driver.another().map_err(lost)
    }

    /// Where the kernels of a stream are. What is missing is built or taken from the store; what was built should be kept there.
    pub(super) fn places(
        &mut self,
        stream: &Stream,
        store: Option<&dyn KernelStore>,
        artifact: &Artifact,
    ) -> Result<(Vec<Place>, Option<New>), ExecError> {
        let prelude = stream.prelude();
        let missing = self.missing(&prelude, stream, artifact);
        let new = match missing.is_empty() {
            true => None,
            false => self.build(&prelude, missing, store)?,
        };
        let known = self.known.entry(prelude).or_default();
        let places = stream.kernels.iter().filter_map(|(k, ..)| known.get(&k.text).cloned());
        let places = places.collect();
        Ok((places, new))
    }

    fn missing(&self, prelude: &str, stream: &Stream, artifact: &Artifact) -> Vec<Missing> {
        let mut all = Vec::new();
        let known = self.known.get(prelude);
        for (kernel, entry, chain) in &stream.kernels {
            if known.is_some_and(|k| k.contains_key(&kernel.text)) {
                continue;
            }
            let entry = artifact.entries.get(*entry).map_or("", |e| e.name.as_str());
            all.push(Missing {
                text: kernel.text.clone(),
                of: format!("entry {entry:?} chain h{chain}"),
            });
        }
        all
    }

    /// Builds kernels as one program, or takes it from the store. What the store has that is damaged or that the driver refuses is
    /// built again.
    fn build(
        &mut self,
        prelude: &str,
        missing: Vec<Missing>,
        store: Option<&dyn KernelStore>,
    ) -> Result<Option<New>, ExecError> {
        let mut source = prelude.to_owned();
        for (i, m) in missing.iter().enumerate() {
            source += &text(i, &m.text);
        }
        let mut hash = blake3::Hasher::new();
        let device = self.driver.device();
        for part in [source.as_str(), &device.name, &device.platform, &device.driver] {
            hash.update(part.as_bytes()).update(&[0]);
        }
        let key = hash.finalize().to_hex().to_string();
        let kept = store.and_then(|s| s.get(&key)).and_then(|bytes| {
            let (hash, binary) = bytes.split_at_checked(HASH_BYTES)?;
            match blake3::hash(binary).as_bytes() == hash {
                true => self.driver.program(&source, Some(binary)).ok(),
                false => None,
            }
        });
        let (program, new) = match kept {
            Some(program) => (program, None),
            None => match self.driver.program(&source, None) {
                Ok(program) => (program, Some(New { program, key })),
                Err(f) => return Err(self.refused(prelude, &missing, f)),
            },
        };
        let known = self.known.entry(prelude.to_owned()).or_default();
        for (i, m) in missing.into_iter().enumerate() {
            let name = format!("k{i}");
            known.insert(m.text, Place { program, name });
        }
        Ok(new)
    }

    /// The error of a program that does not build: which of its kernels it is, and for which chain that was written.
    fn refused(&mut self, prelude: &str, missing: &[Missing], f: Failure) -> ExecError {
        let device = self.driver.device().clone();
        let Failure::Build { log } = f else {
            return failure(&device.name, "kernels", device.memory_bytes, f);
        };
        let mut bad = ("all chains".to_owned(), log);
        for (i, m) in missing.iter().enumerate() {
            let one = format!("{prelude}{}", text(i, &m.text));
            if let Err(Failure::Build { log }) = self.driver.program(&one, None) {
                bad = (m.of.clone(), log);
                break;
            }
        }
        let line: String = bad.1.split_whitespace().collect::<Vec<_>>().join(" ");
        ExecError::Kernel {
            device: device.name,
            chain: bad.0,
            log: line.chars().take(LOG_CHARS).collect(),
        }
    }
}

/// The text of kernel `i` of a program, from its body.
fn text(i: usize, body: &str) -> String {
    format!(
        "__kernel void k{i}(__global uchar *mem, __global uchar *scr, __global const uchar *pool, \
         __global const uchar *wts, __global const long *par, const ulong base) {{\n    \
         __global const long *P = par + par[base + get_group_id(2)];\n{body}}}\n"
    )
}
