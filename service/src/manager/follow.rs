//! What is done with what a manager tells: schedulers are handed on, a configuration is applied or refused, all is saved.

use std::path::PathBuf;
use std::sync::Arc;

use darter_proto::limits::TEXT_BYTES_MAX;
use darter_proto::manager::Membership;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::document::Document;
use super::{Said, saved};
use crate::supervise::Tasks;

/// A role that hears of a manager.
pub trait Member: Send + Sync {
    /// The schedulers of its cluster; none only when it came to another cluster that has none.
    fn schedulers(&self, schedulers: &[String]);

    /// Applies a document over its own file, whole.
    ///
    /// # Errors
    /// It cannot, and changed nothing; the text says why.
    fn apply(&self, document: &Document) -> Result<(), String>;
}

pub(super) struct Follow {
    said: Said,
    member: Arc<dyn Member>,
    cluster: String,
    schedulers: Vec<String>,
    running: u64,
    refused: Option<(u64, String)>,
    /// What runs, as it was told: the next start begins with it, and not with what was refused.
    applied: Option<(u64, String)>,
}

impl Follow {
    pub(super) fn new(said: Said, member: Arc<dyn Member>) -> Self {
        Self {
            said,
            member,
            cluster: String::new(),
            schedulers: Vec::new(),
            running: 0,
            refused: None,
            applied: None,
        }
    }

    /// Applies what an earlier life saved.
    pub(super) fn begin(&mut self, saved: Option<Arc<Membership>>) {
        if let Some(saved) = saved {
            tracing::info!(
                cluster = saved.name,
                schedulers = saved.schedulers.len(),
                "starting with what the manager told last"
            );
            self.take(&saved);
        }
    }

    /// Applies and saves what comes, until `stop`.
    pub(super) async fn run(
        mut self,
        mut heard: watch::Receiver<Option<Arc<Membership>>>,
        file: Option<PathBuf>,
        tasks: Tasks,
        stop: CancellationToken,
    ) {
        let mut last = None;
        while let Some(Ok(())) = stop.run_until_cancelled(heard.changed()).await {
            let Some(membership) = heard.borrow_and_update().clone() else {
                continue;
            };
            self.take(&membership);
            let Some(file) = file.clone() else {
                continue;
            };
            let saved = self.in_use(&membership);
            if last.as_ref() != Some(&saved) && save(file, saved.clone(), &tasks).await {
                last = Some(saved);
            }
        }
        stop.cancelled().await;
    }

    /// What the next start is to begin with: what this instance goes by, which is not all that it was told.
    fn in_use(&self, told: &Membership) -> Membership {
        Membership {
            schedulers: self.schedulers.clone(),
            configuration: self.applied.clone(),
            ..told.clone()
        }
    }

    fn take(&mut self, told: &Membership) {
        let moved = told.cluster != self.cluster;
        if moved {
            tracing::info!(
                cluster = told.name,
                reason = told.reason,
                "the manager says where this belongs"
            );
            self.cluster.clone_from(&told.cluster);
        }
        // None at all: those that were are tried on, which costs little. They may be away from the manager alone.
        if told.schedulers != self.schedulers && (moved || !told.schedulers.is_empty()) {
            tracing::info!(schedulers = ?told.schedulers, "the manager says which schedulers there are");
            self.schedulers.clone_from(&told.schedulers);
            self.member.schedulers(&told.schedulers);
        }
        let (version, text) = match &told.configuration {
            Some((version, text)) => (*version, text.as_str()),
            None => (0, "{}"),
        };
        let is_known = !moved && (version == self.running || self.refused_version() == Some(version));
        if !is_known {
            self.configure(version, text);
        }
        if moved && self.refused_version() == Some(version) && version > 0 {
            // What ran was another cluster's, under numbers that mean nothing here.
            self.run_own_file();
        }
        self.said.running(self.running, self.refused.clone());
    }

    fn refused_version(&self) -> Option<u64> {
        self.refused.as_ref().map(|(version, _)| *version)
    }

    fn run_own_file(&mut self) {
        match self.member.apply(&Document::default()) {
            Ok(()) => (self.running, self.applied) = (0, None),
            Err(reason) => tracing::warn!(reason, "the former cluster's configuration runs on"),
        }
    }

    fn configure(&mut self, version: u64, text: &str) {
        let document = Document::parse(text).map_err(|error| error.to_string());
        match document.and_then(|document| self.member.apply(&document)) {
            Ok(()) => {
                tracing::info!(version, "the cluster's configuration is applied");
                (self.running, self.refused) = (version, None);
                self.applied = (version > 0).then(|| (version, text.to_owned()));
            }
            Err(reason) => {
                tracing::warn!(
                    version,
                    reason,
                    running = self.running,
                    "the cluster's configuration is refused"
                );
                self.refused = Some((version, one_line(&reason)));
            }
        }
    }
}

/// As the network takes it.
fn one_line(reason: &str) -> String {
    let mut line = String::new();
    for letter in reason.chars() {
        let letter = if letter.is_control() { ';' } else { letter };
        if line.len() + letter.len_utf8() > TEXT_BYTES_MAX {
            break;
        }
        line.push(letter);
    }
    line
}

/// Whether it is on the disk.
async fn save(file: PathBuf, membership: Membership, tasks: &Tasks) -> bool {
    let shown = file.display().to_string();
    let write = move || saved::write(&file, &membership);
    let error = match tasks.blocking("saving of what the manager told", write).await {
        Ok(Ok(())) => return true,
        Ok(Err(error)) => error.to_string(),
        Err(error) => error.to_string(),
    };
    tracing::warn!(
        file = shown,
        error,
        "what the manager told is not saved: a start without a manager will not know it"
    );
    false
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::Duration;

    use darter_proto::manager::{Instance, MemberRole, State};

    use super::*;

    #[derive(Default)]
    struct Told {
        schedulers: Mutex<Vec<Vec<String>>>,
        quotas: Mutex<Vec<Option<u64>>>,
    }

    impl Member for Told {
        fn schedulers(&self, schedulers: &[String]) {
            self.schedulers.lock().unwrap().push(schedulers.to_vec());
        }

        fn apply(&self, document: &Document) -> Result<(), String> {
            let quota = document.proxy.store.quota.map(|quota| quota.as_u64());
            if quota == Some(1) {
                return Err("a byte is\nno quota".to_owned());
            }
            self.quotas.lock().unwrap().push(quota);
            Ok(())
        }
    }

    fn told(cluster: &str, schedulers: &[&str], configuration: Option<(u64, &str)>) -> Membership {
        Membership {
            wire_version: 1,
            cluster: cluster.to_owned(),
            name: cluster.to_owned(),
            reason: String::new(),
            schedulers: schedulers.iter().map(ToString::to_string).collect(),
            configuration: configuration.map(|(version, text)| (version, text.to_owned())),
            alive_interval: Duration::from_secs(1),
        }
    }

    fn follow() -> (Follow, Arc<Told>, watch::Receiver<Instance>) {
        let instance = Instance {
            wire_version: 1,
            role: MemberRole::Peer,
            host: "a".parse().unwrap(),
            address: "a:1".to_owned(),
            idc: String::new(),
            location: String::new(),
            build: String::new(),
            state: State::Serving,
            running: 0,
            refused: None,
        };
        let (said, instance) = watch::channel(instance);
        let member = Arc::new(Told::default());
        (Follow::new(Said(said), member.clone()), member, instance)
    }

    #[test]
    fn a_configuration_is_applied_or_refused_whole_and_it_is_said() {
        let (mut follow, member, instance) = follow();
        let quota = |bytes: u64| format!(r#"{{"proxy": {{"store": {{"quota": {bytes}}}}}}}"#);
        follow.take(&told("a", &[], Some((1, &quota(5)))));
        follow.take(&told("a", &[], Some((2, &quota(1)))));
        let said = instance.borrow().clone();
        assert_eq!(
            (said.running, said.refused.clone()),
            (1, Some((2, "a byte is;no quota".to_owned())))
        );
        // What is told again is not applied again.
        follow.take(&told("a", &[], Some((2, &quota(1)))));
        follow.take(&told("a", &[], Some((3, r#"{"newer": 1}"#))));
        let refused = instance.borrow().refused.clone().unwrap();
        assert!(refused.0 == 3 && refused.1.contains("newer"), "{refused:?}");
        follow.take(&told("a", &[], Some((4, "{}"))));
        assert_eq!(
            (instance.borrow().running, instance.borrow().refused.clone()),
            (4, None)
        );
        // Another cluster: a version of the same number is another one.
        follow.take(&told("b", &[], Some((4, &quota(6)))));
        follow.take(&told("b", &[], None));
        assert_eq!(instance.borrow().running, 0);
        assert_eq!(*member.quotas.lock().unwrap(), [Some(5), None, Some(6), None]);
    }

    #[test]
    fn no_schedulers_at_all_changes_nothing_in_the_same_cluster() {
        let (mut follow, member, _) = follow();
        for (cluster, schedulers) in [
            ("a", &["x:1"][..]),
            ("a", &[]),
            ("a", &["x:1"]),
            ("a", &["y:1"]),
            ("b", &[]),
        ] {
            follow.take(&told(cluster, schedulers, None));
        }
        let heard = member.schedulers.lock().unwrap().clone();
        assert_eq!(heard, [vec!["x:1".to_owned()], vec!["y:1".to_owned()], vec![]]);
    }

    #[test]
    fn what_is_saved_is_what_is_gone_by() {
        let (mut follow, ..) = follow();
        follow.take(&told("a", &["x:1"], Some((1, "{}"))));
        let last = told("a", &[], Some((2, r#"{"newer": 1}"#)));
        follow.take(&last);
        assert_eq!(follow.in_use(&last), told("a", &["x:1"], Some((1, "{}"))));
        let other = told("b", &[], None);
        follow.take(&other);
        assert_eq!(follow.in_use(&other), other);
    }

    #[test]
    fn the_former_cluster_s_configuration_does_not_run_on_in_another() {
        let (mut follow, member, instance) = follow();
        follow.take(&told(
            "a",
            &[],
            Some((7, r#"{"proxy": {"store": {"quota": 5}}}"#)),
        ));
        let moved = told("b", &[], Some((2, r#"{"newer": 1}"#)));
        follow.take(&moved);
        let said = instance.borrow().clone();
        assert_eq!(
            (said.running, said.refused.map(|(version, _)| version)),
            (0, Some(2))
        );
        assert_eq!(*member.quotas.lock().unwrap(), [Some(5), None]);
        assert_eq!(follow.in_use(&moved).configuration, None);
    }

    #[test]
    fn a_reason_fits_the_network() {
        assert_eq!(one_line(&"é\n".repeat(1000)).len(), TEXT_BYTES_MAX - 1);
    }
}
