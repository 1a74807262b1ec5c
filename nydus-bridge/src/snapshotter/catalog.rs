//! Which snapshots there are, as a pure state machine: who is whose parent, what may be done with whom.
//!
//! Each operation looks and answers a [`Change`]; nothing has happened until that is written ([`super::store`]) and
//! [`Catalog::apply`] takes it over. So memory never knows what the disk does not.
//!
//! What must hold ([`Catalog::problems`]): a parent is there and committed; numbers are never used twice; what has children stays.
//! And nothing is shown without the files of a layer below it ([`Catalog::below`]): which layers are chunks of a Nydus image, an
//! image says of itself, and containerd believes it of all images that have such a layer.

mod snapshot;

use std::collections::BTreeMap;
use std::time::SystemTime;

use thiserror::Error;

pub(crate) use crate::image::{NYDUS_BLOB, NYDUS_BOOTSTRAP};
pub use snapshot::{Kind, Labels, Role, Snapshot, Usage};

/// Snapshots that are kept; each costs a directory and less than a kilobyte of memory.
const SNAPSHOTS_MAX: usize = 100_000;
/// Longest name. containerd's own are its namespace, a number and a digest.
const NAME_BYTES_MAX: usize = 4096;
/// Most bytes of all labels of a snapshot.
const LABELS_BYTES_MAX: usize = 64 << 10;
/// Longest chain of parents. The kernel takes 500 lower directories.
const CHAIN_MAX: usize = 500;

/// The label by which containerd names the snapshot that an unpacking is for.
pub const TARGET: &str = "containerd.io/snapshot.ref";
/// The label in which CRI names the image.
pub const CRI_IMAGE: &str = "containerd.io/snapshot/cri.image-ref";

/// Why an operation is refused. containerd acts on which it is.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// There is no such snapshot.
    #[error("snapshot {0:?} does not exist")]
    NotFound(String),
    /// There is one of that name, or the target is there.
    #[error("snapshot {0:?} exists")]
    Exists(String),
    /// It is in another state than the operation needs.
    #[error("snapshot {name:?} {reason}")]
    State {
        /// Which.
        name: String,
        /// What is in the way.
        reason: &'static str,
    },
    /// The request makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// It would be shown without the files of a layer.
    #[error(
        "snapshot {name:?} would lack the files of the layer {layer}: {by} has that layer too, marks it as chunks of a Nydus image, \
         and so it was never unpacked; remove that image and all others that have the layer, then pull again"
    )]
    Chunks {
        /// Which.
        name: String,
        /// The layer's target.
        layer: String,
        /// Who marks it.
        by: String,
    },
    /// There is no room for more.
    #[error("there are {SNAPSHOTS_MAX} snapshots already")]
    Full,
}

/// What an operation changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Snapshots as they are from now on.
    pub puts: Vec<(String, Snapshot)>,
    /// Names that are gone.
    pub deletes: Vec<String>,
}

/// What is to be made.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Its name until it is committed.
    pub key: String,
    /// What it stands on.
    pub parent: Option<String>,
    /// Active or a view.
    pub kind: Kind,
    /// What containerd says of it.
    pub labels: Labels,
}

/// How a new snapshot begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Begun {
    /// It has a directory, to be made before the change is written.
    Made(Change),
    /// It is a layer whose bytes are never unpacked: the target is there at once, and containerd is told so.
    Target(Change),
    /// That layer was there before.
    TargetExists,
}

/// What a snapshot shows beneath its own files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lower {
    /// The files of a snapshot.
    Files(u64),
    /// The image whose metadata a snapshot holds.
    Image(u64),
}

/// All snapshots.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    snapshots: BTreeMap<String, Snapshot>,
    /// How many each has; none is no entry.
    children: BTreeMap<String, usize>,
    next: u64,
}

impl Catalog {
    /// What was written before; `next` is a number above all that were ever used.
    pub fn new(snapshots: BTreeMap<String, Snapshot>, next: u64) -> Self {
        let mut catalog = Self {
            next,
            ..Self::default()
        };
        for (name, snapshot) in snapshots {
            catalog.put(name, snapshot);
        }
        catalog
    }

    /// The number of the next snapshot.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// A snapshot by its name.
    ///
    /// # Errors
    /// There is none.
    pub fn get(&self, name: &str) -> Result<&Snapshot, Refusal> {
        self.snapshots
            .get(name)
            .ok_or_else(|| Refusal::NotFound(name.to_owned()))
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&String, &Snapshot)> {
        self.snapshots.iter()
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.snapshots.len()
    }

    /// Whether anything stands on it.
    pub fn has_children(&self, name: &str) -> bool {
        self.children.contains_key(name)
    }

    /// What the snapshot `of`, which has this name, shows beneath its own files: topmost first. A Nydus image is the last, as
    /// whatever is below belongs to it.
    ///
    /// # Errors
    /// [`Refusal::Chunks`]: a layer of chunks has no image above it.
    pub fn below(&self, name: &str, of: &Snapshot) -> Result<Vec<Lower>, Refusal> {
        let mut lower = Vec::new();
        // The metadata of an image are unpacked by themselves: below them are chunks.
        if matches!(of.role, Role::Image { .. }) {
            return Ok(lower);
        }
        for snapshot in self.ancestors(of) {
            match snapshot.role {
                Role::Files => lower.push(Lower::Files(snapshot.id)),
                Role::Data => return Err(chunks(name, snapshot)),
                Role::Image { .. } => {
                    lower.push(Lower::Image(snapshot.id));
                    break;
                }
            }
        }
        Ok(lower)
    }

    /// What a snapshot stands on: its parent first.
    fn ancestors<'c>(&'c self, of: &'c Snapshot) -> impl Iterator<Item = &'c Snapshot> {
        let parent = |snapshot: &&Snapshot| self.snapshots.get(snapshot.parent.as_ref()?);
        std::iter::successors(parent(&of), parent).take(CHAIN_MAX)
    }

    /// The Nydus image that whoever stands on `name` shows, and its name, if there is one.
    pub fn image(&self, name: Option<&str>) -> Option<(&str, &Snapshot)> {
        let step = |name: &str| self.snapshots.get_key_value(name);
        let chain = std::iter::successors(step(name?), |(_, found)| step(found.parent.as_deref()?));
        let mut chain = chain.take(CHAIN_MAX);
        let found = chain.find(|(_, found)| matches!(found.role, Role::Image { .. }));
        found.map(|(name, found)| (name.as_str(), found))
    }

    /// Begins a snapshot to be written or looked at.
    ///
    /// # Errors
    /// The name is taken, the parent is missing or not committed, something is too long, or files would be missing.
    pub fn begin(&self, wanted: &Wanted, now: SystemTime) -> Result<Begun, Refusal> {
        self.check_name(&wanted.key)?;
        check_labels(&wanted.labels)?;
        if let Some(parent) = &wanted.parent
            && self.get(parent)?.kind != Kind::Committed
        {
            return Err(Refusal::Invalid(format!("parent {parent:?} is not committed")));
        }
        let mut snapshot = Snapshot {
            id: self.next,
            kind: wanted.kind,
            parent: wanted.parent.clone(),
            labels: wanted.labels.clone(),
            created: now,
            updated: now,
            usage: Usage::default(),
            role: Role::Files,
        };
        if self.ancestors(&snapshot).count() >= CHAIN_MAX {
            return Err(Refusal::Invalid(format!(
                "there are more than {CHAIN_MAX} layers"
            )));
        }
        let says = |label| wanted.labels.get(label).map(String::as_str) == Some("true");
        if wanted.kind == Kind::Active && says(NYDUS_BLOB) && wanted.labels.contains_key(TARGET) {
            if self.holds_target(wanted) {
                return Ok(Begun::TargetExists);
            }
            snapshot.kind = Kind::Committed;
            snapshot.role = Role::Data;
            return Ok(Begun::Target(Change::put(wanted.key.clone(), snapshot)));
        }
        if wanted.kind == Kind::Active && says(NYDUS_BOOTSTRAP) {
            snapshot.role = Role::Image { reference: None };
        }
        self.below(&wanted.key, &snapshot)?;
        Ok(Begun::Made(Change::put(wanted.key.clone(), snapshot)))
    }

    /// Whether the layer that an unpacking is for is there, as one that is never unpacked. Names say nothing of it: they are
    /// of another unpacking, maybe of another namespace.
    fn holds_target(&self, wanted: &Wanted) -> bool {
        self.snapshots.values().any(|there| {
            there.role == Role::Data
                && there.parent == wanted.parent
                && there.labels.get(TARGET) == wanted.labels.get(TARGET)
        })
    }

    /// The snapshot that can be committed.
    ///
    /// # Errors
    /// There is none, or it is no active one, or the name is taken.
    pub fn committable(&self, name: &str, key: &str) -> Result<&Snapshot, Refusal> {
        self.check_name(name)?;
        let snapshot = self.get(key)?;
        if snapshot.kind != Kind::Active {
            return Err(state(key, "is not active"));
        }
        Ok(snapshot)
    }

    /// Commits what is active as `name`; its labels are the new ones alone.
    ///
    /// # Errors
    /// As [`Self::committable`].
    pub fn commit(
        &self,
        (name, key): (&str, &str),
        (usage, role): (Usage, Role),
        labels: &Labels,
        now: SystemTime,
    ) -> Result<Change, Refusal> {
        check_labels(labels)?;
        let active = self.committable(name, key)?;
        let committed = Snapshot {
            kind: Kind::Committed,
            labels: labels.clone(),
            created: now,
            updated: now,
            usage,
            role,
            ..active.clone()
        };
        Ok(Change {
            puts: vec![(name.to_owned(), committed)],
            deletes: vec![key.to_owned()],
        })
    }

    /// Forgets a snapshot.
    ///
    /// # Errors
    /// There is none, or others stand on it.
    pub fn remove(&self, name: &str) -> Result<Change, Refusal> {
        self.get(name)?;
        if self.has_children(name) {
            return Err(state(name, "has children, which must be removed first"));
        }
        Ok(Change {
            puts: Vec::new(),
            deletes: vec![name.to_owned()],
        })
    }

    /// Changes labels: those that `fields` name (`labels.x`), or all of them.
    ///
    /// # Errors
    /// There is no such snapshot, or something else than labels is named.
    pub fn update(
        &self,
        name: &str,
        labels: &Labels,
        fields: &[String],
        now: SystemTime,
    ) -> Result<Change, Refusal> {
        let mut snapshot = self.get(name)?.clone();
        if fields.is_empty() {
            snapshot.labels.clone_from(labels);
        }
        for field in fields {
            match field.strip_prefix("labels") {
                Some("") => snapshot.labels.clone_from(labels),
                Some(rest) if rest.starts_with('.') => {
                    let key = rest.trim_start_matches('.').to_owned();
                    let value = labels.get(&key).cloned().unwrap_or_default();
                    match value.is_empty() {
                        true => drop(snapshot.labels.remove(&key)),
                        false => drop(snapshot.labels.insert(key, value)),
                    }
                }
                _ => {
                    return Err(Refusal::Invalid(format!(
                        "{field:?} of a snapshot cannot be changed"
                    )));
                }
            }
        }
        check_labels(&snapshot.labels)?;
        snapshot.updated = now;
        Ok(Change::put(name.to_owned(), snapshot))
    }

    /// Remembers what image a snapshot's metadata are of.
    ///
    /// # Errors
    /// There is no such snapshot.
    pub fn refer(&self, name: &str, reference: &str) -> Result<Change, Refusal> {
        let mut snapshot = self.get(name)?.clone();
        snapshot.role = Role::Image {
            reference: Some(reference.to_owned()),
        };
        Ok(Change::put(name.to_owned(), snapshot))
    }

    /// Takes a change over.
    pub fn apply(&mut self, change: Change) {
        for name in change.deletes {
            if let Some(gone) = self.snapshots.remove(&name) {
                self.leave(gone.parent.as_deref());
            }
        }
        for (name, snapshot) in change.puts {
            self.put(name, snapshot);
        }
        debug_assert_eq!(self.problems(), Vec::<String>::new());
    }

    fn put(&mut self, name: String, snapshot: Snapshot) {
        self.next = self.next.max(snapshot.id.saturating_add(1));
        if let Some(parent) = &snapshot.parent {
            *self.children.entry(parent.clone()).or_default() += 1;
        }
        if let Some(before) = self.snapshots.insert(name, snapshot) {
            self.leave(before.parent.as_deref());
        }
    }

    fn leave(&mut self, parent: Option<&str>) {
        let Some(parent) = parent else { return };
        match self.children.get_mut(parent) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(self.children.remove(parent)),
        }
    }

    fn check_name(&self, name: &str) -> Result<(), Refusal> {
        if name.is_empty() || name.len() > NAME_BYTES_MAX {
            let length = name.len();
            return Err(Refusal::Invalid(format!(
                "a name of {length} bytes; it must have 1 to {NAME_BYTES_MAX}"
            )));
        }
        if self.snapshots.contains_key(name) {
            return Err(Refusal::Exists(name.to_owned()));
        }
        if self.snapshots.len() >= SNAPSHOTS_MAX {
            return Err(Refusal::Full);
        }
        Ok(())
    }

    /// What does not hold and should.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut ids: Vec<u64> = self.snapshots.values().map(|snapshot| snapshot.id).collect();
        ids.sort_unstable();
        if ids.windows(2).any(|pair| pair.first() == pair.last()) {
            problems.push("two snapshots have one number".to_owned());
        }
        if ids.last().is_some_and(|last| *last >= self.next) {
            problems.push("the next number was used".to_owned());
        }
        let mut children: BTreeMap<&str, usize> = BTreeMap::new();
        for (name, snapshot) in &self.snapshots {
            let Some(parent) = &snapshot.parent else { continue };
            *children.entry(parent).or_default() += 1;
            match self.snapshots.get(parent) {
                Some(parent) if parent.kind == Kind::Committed => {}
                _ => problems.push(format!("{name} stands on what is not committed")),
            }
        }
        if !children
            .into_iter()
            .eq(self.children.iter().map(|(name, count)| (name.as_str(), *count)))
        {
            problems.push("children are counted wrongly".to_owned());
        }
        problems
    }
}

impl Change {
    fn put(name: String, snapshot: Snapshot) -> Self {
        Self {
            puts: vec![(name, snapshot)],
            deletes: Vec::new(),
        }
    }
}

fn state(name: &str, reason: &'static str) -> Refusal {
    Refusal::State {
        name: name.to_owned(),
        reason,
    }
}

fn chunks(name: &str, layer: &Snapshot) -> Refusal {
    let label = |label| layer.labels.get(label);
    Refusal::Chunks {
        name: name.to_owned(),
        layer: label(TARGET)
            .map_or("of an unknown digest", |target| target)
            .to_owned(),
        by: label(CRI_IMAGE).map_or("an image", |image| image).to_owned(),
    }
}

fn check_labels(labels: &Labels) -> Result<(), Refusal> {
    let bytes: usize = labels.iter().map(|(key, value)| key.len() + value.len()).sum();
    if bytes > LABELS_BYTES_MAX {
        return Err(Refusal::Invalid(format!(
            "labels of {bytes} bytes; {LABELS_BYTES_MAX} are taken"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
