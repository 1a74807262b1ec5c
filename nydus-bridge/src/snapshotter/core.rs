//! What containerd asks for, done: the catalog decides, directories and mounts follow.
//!
//! What must hold: a directory is there before its snapshot is written, and goes after it; an answer comes when all of it is on
//! disk; whatever has begun goes on when its caller has left; nothing waits for a mount while the catalog is held.

mod error;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use darter_service::supervise::Tasks;
use tokio::sync::oneshot;

use super::catalog::{
    Begun, Catalog, Change, Kind, Labels, Lower, NYDUS_BOOTSTRAP, Refusal, Role, Snapshot, Usage, Wanted,
};
use super::filter::Filters;
use super::folders::{Folders, Owner};
use super::images::{self, Images};
use super::layout::{self, Mounting};
use super::metrics::Metrics;
use super::reference::{self, References};
use super::store::{Store, StoreError};
use error::{replaced, system, without_metadata};

pub use error::CoreError;

/// The snapshotter without its service. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Core(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    kept: Mutex<Kept>,
    folders: Folders,
    images: Images,
    references: References,
    /// Whether overlayfs knows the option.
    index: bool,
    tasks: Tasks,
    metrics: Metrics,
}

/// The catalog, in memory and on disk.
#[derive(Debug)]
struct Kept {
    catalog: Catalog,
    store: Store,
}

/// What a core is made of.
#[derive(Debug)]
#[expect(missing_docs, reason = "each field is what its type says")]
pub struct Parts {
    pub folders: Folders,
    pub images: Images,
    pub references: References,
    pub tasks: Tasks,
    pub metrics: Metrics,
}

impl Kept {
    /// Writes a change, and takes it over.
    fn change(&mut self, change: Change) -> Result<(), StoreError> {
        let mut after = self.catalog.next();
        for (_, snapshot) in &change.puts {
            after = after.max(snapshot.id.saturating_add(1));
        }
        self.store.write(&change, after)?;
        self.catalog.apply(change);
        Ok(())
    }
}

impl Core {
    /// Reads what there is.
    ///
    /// # Errors
    /// The list of snapshots cannot be read.
    pub fn open(parts: Parts) -> Result<Self, CoreError> {
        let (store, catalog) = Store::open(&parts.folders.database())?;
        Ok(Self(Arc::new(Inner {
            kept: Mutex::new(Kept { catalog, store }),
            folders: parts.folders,
            images: parts.images,
            references: parts.references,
            index: Path::new("/sys/module/overlay/parameters/index").exists(),
            tasks: parts.tasks,
            metrics: parts.metrics,
        })))
    }

    /// Begins a snapshot, and tells how to mount it. Nothing, for a layer whose target is there.
    ///
    /// # Errors
    /// [`Refusal::Exists`] as well for a layer that need not be fetched.
    pub async fn begin(&self, wanted: Wanted) -> Result<Vec<Mounting>, CoreError> {
        let core = self.clone();
        self.whole(async move {
            let shown = core.show(wanted.parent.clone()).await?;
            core.held(move |inner, kept| inner.begin(kept, &wanted, shown))
                .await
        })
        .await
    }

    /// How to mount a snapshot that is not committed.
    ///
    /// # Errors
    /// There is none.
    pub async fn mounts(&self, name: String) -> Result<Vec<Mounting>, CoreError> {
        let core = self.clone();
        self.whole(async move {
            let asked = name.clone();
            let parent = core
                .held(move |_, kept| Ok(kept.catalog.get(&asked)?.parent.clone()))
                .await?;
            core.show(parent).await?;
            core.held(move |inner, kept| {
                let snapshot = kept.catalog.get(&name)?;
                if snapshot.kind == Kind::Committed {
                    let reason = "is committed, and is not mounted by itself";
                    return Err(Refusal::State { name, reason }.into());
                }
                let below = kept.catalog.below(&name, snapshot)?;
                Ok(layout::mounts(&inner.folders, snapshot, &below, inner.index))
            })
            .await
        })
        .await
    }

    /// Commits a snapshot under a name.
    ///
    /// # Errors
    /// See [`Catalog::commit`]; or its layer should have an image's metadata and has not.
    pub async fn commit(&self, name: String, key: String, labels: Labels) -> Result<(), CoreError> {
        let core = self.clone();
        self.whole(async move {
            let (to, from) = (name.clone(), key.clone());
            let active = core
                .held(move |_, kept| Ok(kept.catalog.committable(&to, &from)?.clone()))
                .await?;
            let (inner, given) = (Arc::clone(&core.0), labels.clone());
            let looked = core.0.tasks.blocking("look at a layer", move || {
                Ok::<_, CoreError>((inner.usage(active.id)?, inner.role(&active, &given)?))
            });
            let (usage, role) = looked.await.map_err(|_| CoreError::Stopping)??;
            core.held(move |_, kept| {
                let change = kept
                    .catalog
                    .commit((&name, &key), (usage, role), &labels, now())?;
                Ok(kept.change(change)?)
            })
            .await
        })
        .await
    }

    /// Forgets a snapshot; its directory and its mount go.
    ///
    /// # Errors
    /// See [`Catalog::remove`].
    pub async fn remove(&self, name: String) -> Result<(), CoreError> {
        let core = self.clone();
        self.whole(async move {
            let id = core
                .held(move |_, kept| {
                    let id = kept.catalog.get(&name)?.id;
                    let change = kept.catalog.remove(&name)?;
                    kept.change(change)?;
                    Ok(id)
                })
                .await?;
            core.discard(id).await;
            Ok(())
        })
        .await
    }

    /// Removes directories and mounts that belong to no snapshot.
    ///
    /// # Errors
    /// They cannot be listed.
    pub async fn cleanup(&self) -> Result<(), CoreError> {
        let core = self.clone();
        self.whole(async move {
            let left = core.held(|inner, kept| {
                // Nobody makes one meanwhile: that needs the catalog.
                let unfinished = inner.folders.remove_unfinished();
                unfinished.map_err(|error| system("remove what was left unfinished", error))?;
                let there = inner
                    .folders
                    .numbers()
                    .map_err(|error| system("list the snapshots", error))?;
                let known: BTreeSet<u64> = kept.catalog.iter().map(|(_, snapshot)| snapshot.id).collect();
                Ok(there.difference(&known).copied().collect::<Vec<_>>())
            });
            for id in left.await? {
                core.discard(id).await;
            }
            Ok(())
        })
        .await
    }

    /// A snapshot.
    ///
    /// # Errors
    /// There is none.
    pub async fn stat(&self, name: String) -> Result<Snapshot, CoreError> {
        self.held(move |_, kept| Ok(kept.catalog.get(&name)?.clone()))
            .await
    }

    /// Changes labels; see [`Catalog::update`].
    ///
    /// # Errors
    /// The same.
    pub async fn update(
        &self,
        name: String,
        labels: Labels,
        fields: Vec<String>,
    ) -> Result<Snapshot, CoreError> {
        self.held(move |_, kept| {
            let change = kept.catalog.update(&name, &labels, &fields, now())?;
            kept.change(change)?;
            Ok(kept.catalog.get(&name)?.clone())
        })
        .await
    }

    /// The snapshots that filters fit.
    ///
    /// # Errors
    /// A filter is not understood.
    pub async fn list(&self, filters: Vec<String>) -> Result<Vec<(String, Snapshot)>, CoreError> {
        let filters = Filters::parse(&filters)?;
        self.held(move |_, kept| {
            let all = kept
                .catalog
                .iter()
                .filter(|(name, snapshot)| filters.fit(name, snapshot));
            Ok(all
                .map(|(name, snapshot)| (name.clone(), snapshot.clone()))
                .collect())
        })
        .await
    }

    /// What a snapshot takes.
    ///
    /// # Errors
    /// There is none, or it cannot be counted.
    pub async fn usage(&self, name: String) -> Result<Usage, CoreError> {
        let snapshot = self.stat(name).await?;
        if snapshot.kind != Kind::Active {
            return Ok(snapshot.usage);
        }
        let inner = Arc::clone(&self.0);
        let counted = self
            .0
            .tasks
            .blocking("usage of a snapshot", move || inner.usage(snapshot.id));
        counted.await.map_err(|_| CoreError::Stopping)?
    }

    /// Takes away what died and what belongs to nobody, and mounts what is in use again.
    ///
    /// # Errors
    /// What there is cannot be listed.
    pub async fn recover(&self) -> Result<(), CoreError> {
        self.cleanup().await?;
        self.watch(true).await
    }

    /// Looks at all mounts: their logs are cut; those whose process died are taken away and, where something stands on them, made anew. With
    /// `missing`, those that are not there at all as well, as after a start of the machine.
    ///
    /// # Errors
    /// The catalog cannot be asked.
    pub async fn watch(&self, missing: bool) -> Result<(), CoreError> {
        let (count, images) = self
            .held(|_, kept| {
                let all = kept.catalog.iter();
                let images = all.filter(|(_, snapshot)| matches!(snapshot.role, Role::Image { .. }));
                let images = images.filter(|(_, snapshot)| snapshot.kind == Kind::Committed);
                let used = |name: &String| kept.catalog.has_children(name);
                let images = images.map(|(name, snapshot)| (name.clone(), snapshot.id, used(name)));
                Ok((kept.catalog.count(), images.collect::<Vec<_>>()))
            })
            .await?;
        let mut mounted = 0;
        for (name, id, used) in images {
            self.0.images.cut_log(id).await;
            let died = self.0.images.clear(id).await;
            if used && (died || (missing && !self.0.images.is_mounted(id))) {
                let core = self.clone();
                self.0.tasks.spawn("mount of an image", async move {
                    // Said where it was tried, and tried again when somebody asks.
                    let _ = core.show(Some(name)).await;
                });
            }
            mounted += usize::from(self.0.images.is_mounted(id));
        }
        self.0.metrics.count(count, Some(mounted));
        Ok(())
    }

    /// Mounts the image that whoever stands on `parent` shows, if there is one: its number, and whose its root is.
    async fn show(&self, parent: Option<String>) -> Result<Option<(u64, Owner)>, CoreError> {
        let found = self
            .held(move |inner, kept| match kept.catalog.image(parent.as_deref()) {
                Some((name, snapshot)) => {
                    let bootstrap = inner.folders.bootstrap(snapshot.id, false);
                    let bootstrap = bootstrap.map_err(|error| system("read an image's metadata", error))?;
                    let bootstrap = bootstrap.ok_or_else(|| without_metadata(name))?;
                    Ok(Some((name.to_owned(), snapshot.clone(), bootstrap)))
                }
                None => Ok(None),
            })
            .await?;
        let Some((name, snapshot, bootstrap)) = found else {
            return Ok(None);
        };
        let known = match &snapshot.role {
            Role::Image {
                reference: Some(reference),
            } => reference.parse().ok(),
            _ => None,
        };
        let image = match known {
            Some(image) => image,
            None => self.refer(name).await?,
        };
        let wanted = images::Wanted {
            id: snapshot.id,
            bootstrap,
            name: image,
        };
        Ok(Some((snapshot.id, self.0.images.ensure(wanted).await?)))
    }

    /// Finds out which image it is, and remembers it.
    async fn refer(&self, name: String) -> Result<crate::image::ImageName, CoreError> {
        let image = self.0.references.find(&name).await?;
        let text = image.to_string();
        self.held(move |_, kept| {
            let change = kept.catalog.refer(&name, &text)?;
            Ok(kept.change(change)?)
        })
        .await?;
        Ok(image)
    }

    /// Takes away what a snapshot had. What cannot be is left to the next cleanup.
    async fn discard(&self, id: u64) {
        self.0.images.stop(id).await;
        let folders = self.0.folders.clone();
        let removed = self
            .0
            .tasks
            .blocking("removal of a directory", move || folders.remove(id));
        match removed.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(id, %error, "the directory of a snapshot cannot be removed"),
            Err(error) => tracing::warn!(id, %error, "the directory of a snapshot is not removed"),
        }
    }

    /// Runs to the end, whether or not the caller waits.
    async fn whole<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, CoreError>> + Send + 'static,
    ) -> Result<T, CoreError> {
        let (done, result) = oneshot::channel();
        self.0.tasks.spawn("request of containerd", async move {
            let _ = done.send(work.await);
        });
        result.await.unwrap_or(Err(CoreError::Stopping))
    }

    /// Does something with the catalog, on a thread that may wait for the disk.
    async fn held<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner, &mut Kept) -> Result<T, CoreError> + Send + 'static,
    ) -> Result<T, CoreError> {
        let inner = Arc::clone(&self.0);
        let done = self.0.tasks.blocking("list of snapshots", move || {
            let mut kept = inner.kept.lock().unwrap_or_else(PoisonError::into_inner);
            let done = work(&inner, &mut kept);
            inner.metrics.count(kept.catalog.count(), None);
            done
        });
        done.await.map_err(|_| CoreError::Stopping)?
    }
}

impl Inner {
    /// `shown` is the image that was mounted for it. That is not asked for anything here: it may hang by now.
    fn begin(
        &self,
        kept: &mut Kept,
        wanted: &Wanted,
        shown: Option<(u64, Owner)>,
    ) -> Result<Vec<Mounting>, CoreError> {
        match kept.catalog.begin(wanted, now())? {
            Begun::TargetExists => Err(Refusal::Exists(wanted.key.clone()).into()),
            Begun::Target(change) => {
                kept.change(change)?;
                self.metrics.left_out();
                Err(Refusal::Exists(wanted.key.clone()).into())
            }
            Begun::Made(change) => {
                let [(_, snapshot)] = change.puts.as_slice() else {
                    return Err(Refusal::Invalid("nothing begins".to_owned()).into());
                };
                let snapshot = snapshot.clone();
                let below = kept.catalog.below(&wanted.key, &snapshot)?;
                let owner = match below.first() {
                    None => None,
                    Some(Lower::Files(id)) => Some(self.owner(*id)?),
                    Some(Lower::Image(id)) => match shown {
                        Some((there, owner)) if there == *id => Some(owner),
                        _ => return Err(replaced(wanted).into()),
                    },
                };
                let made = self.folders.make(snapshot.id, snapshot.kind, owner);
                made.map_err(|error| system("make the directory of a snapshot", error))?;
                kept.change(change)?;
                Ok(layout::mounts(&self.folders, &snapshot, &below, self.index))
            }
        }
    }

    fn owner(&self, id: u64) -> Result<Owner, CoreError> {
        let owner = Owner::of(&self.folders.files(id));
        owner.map_err(|error| system("look at the directory of a snapshot", error))
    }

    fn usage(&self, id: u64) -> Result<Usage, CoreError> {
        let usage = self.folders.usage(id);
        usage.map_err(|error| system("count the files of a snapshot", error))
    }

    /// What a layer is, now that its files are there. One that does not say it is looked at, as `ctr` passes no labels on.
    fn role(&self, active: &Snapshot, labels: &Labels) -> Result<Role, CoreError> {
        let says = |labels: &Labels| labels.get(NYDUS_BOOTSTRAP).map(String::as_str) == Some("true");
        let said = says(labels) || says(&active.labels);
        let found = self.folders.bootstrap(active.id, !said);
        let found = found.map_err(|error| system("look at a layer", error))?;
        if found.is_none() {
            return match said {
                true => Err(without_metadata("the layer").into()),
                false => Ok(Role::Files),
            };
        }
        let named = reference::labelled(labels).or_else(|| reference::labelled(&active.labels));
        Ok(Role::Image {
            reference: named.map(|name| name.to_string()),
        })
    }
}

#[expect(clippy::disallowed_methods, reason = "the edge: the catalog is given it")]
fn now() -> SystemTime {
    SystemTime::now()
}

#[cfg(test)]
mod tests;
