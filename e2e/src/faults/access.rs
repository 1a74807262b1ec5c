//! A private content that somebody else has pulled: who may not read it hears what its registry says, and gets no byte.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use darter_testkit::client::Response;
use darter_testkit::origin::Access;

use super::scene::{Blob, MIB, Plan, REPOSITORY, Scene, ended};
use super::{Effort, Report, Tally};

const SIZE: u64 = MIB;
const ELSEWHERE: &str = "e2e/elsewhere";
const LIFE: Duration = Duration::from_secs(3600);
const MIRROR: &str = "127.0.0.1:4001";
/// Error bodies are shorter.
const ERROR_MAX: usize = 4096;

/// Who asks.
#[derive(Debug, Clone, Copy)]
enum Stranger {
    /// Bar 13: without a token.
    Nobody,
    /// Bar 14: with one that opens another repository.
    Elsewhere,
    /// Bar 14: with that one, for the digest in that repository, which has it not.
    OtherPath,
}

/// Bar 13: on the node that has it, and on one that would get it from there.
pub(super) fn without_token(effort: Effort, report: &mut Report) -> Result<()> {
    let name = "13 private blob, a client without a token";
    private(effort, report, name, Stranger::Nobody)
}

/// Bar 14: the same with a token for something else.
pub(super) fn with_other_token(effort: Effort, report: &mut Report) -> Result<()> {
    let name = "14 private blob, a token for another repository";
    private(effort, report, name, Stranger::Elsewhere)?;
    let name = "14 digest of another repository than the token's";
    private(effort, report, name, Stranger::OtherPath)
}

fn private(effort: Effort, report: &mut Report, name: &str, stranger: Stranger) -> Result<()> {
    let mut tally = Tally::new(name);
    let mut scene = Scene::start(Plan {
        nodes: 2,
        scheduler: true,
        ..Plan::default()
    })?;
    let owner = grant(&scene);
    let plain = plain(&mut scene, &owner)?;
    for _ in 0..effort.times(10, 200) {
        let blob = scene.blob(SIZE);
        // Before anybody has it, and after.
        refused(&scene, &mut tally, stranger, &blob)?;
        tally.pull(&pull(&mut scene, &owner, &blob, true)?, plain);
        refused(&scene, &mut tally, stranger, &blob)?;
    }
    tally.added_in_bounds();
    report.add(&tally);
    scene.end(tally.is_good());
    Ok(())
}

/// Closes both repositories; what opens the first.
fn grant(scene: &Scene) -> String {
    let origin = &scene.registry.origin;
    for (repository, user) in [(REPOSITORY, "owner"), (ELSEWHERE, "stranger")] {
        origin.set_access(repository, Access::Bearer { public: false });
        origin.add_user(user, "secret");
        origin.allow(repository, user);
        origin.add_token(user, Some(user), &[repository], LIFE);
    }
    "Bearer owner".to_owned()
}

fn plain(scene: &mut Scene, owner: &str) -> Result<Duration> {
    let blob = scene.blob(SIZE);
    let end = pull(scene, owner, &blob, false)?;
    ensure!(end.bytes == SIZE, "a pull without Darter failed: {end:?}");
    Ok(end.took.unwrap_or_default())
}

fn pull(
    scene: &mut Scene,
    owner: &str,
    blob: &Blob,
    mirrored: bool,
) -> Result<darter_testkit::puller::Progress> {
    let mut errand = scene.errand(blob);
    errand.authorization = Some(owner.to_owned());
    if !mirrored {
        errand.mirror = None;
    }
    let watch = scene.node(0)?.begin(errand);
    ended(&[watch])?.pop().context("one pull, one end")
}

/// Both nodes answer as the registry itself does.
fn refused(scene: &Scene, tally: &mut Tally, stranger: Stranger, blob: &Blob) -> Result<()> {
    let repository = match stranger {
        Stranger::Nobody | Stranger::Elsewhere => REPOSITORY,
        Stranger::OtherPath => ELSEWHERE,
    };
    let headers = match stranger {
        Stranger::Nobody => Vec::new(),
        Stranger::Elsewhere | Stranger::OtherPath => {
            vec![("authorization", "Bearer stranger".to_owned())]
        }
    };
    let path = format!("/v2/{repository}/blobs/{}", blob.digest);
    let asked = format!("{path}?ns=registry.test");
    for node in &scene.nodes {
        let truth = node.get_with(&scene.registry.address(), &path, &headers)?;
        ensure!(
            (401..=404).contains(&truth.status),
            "the registry itself answered {}",
            truth.status
        );
        let answer = node.get_with(MIRROR, &asked, &headers)?;
        tally.must(
            answer.status == truth.status && challenge(&answer) == challenge(&truth),
            || {
                format!(
                    "{} and {:?} where the registry says {} and {:?}",
                    answer.status,
                    challenge(&answer),
                    truth.status,
                    challenge(&truth)
                )
            },
        );
        if answer.status == 200 || answer.body.len() > ERROR_MAX {
            tally.wrong(answer.body.len() as u64);
        }
    }
    Ok(())
}

/// Where a token is to be had, and for what. Why the last one did not do differs: the proxy has tried an anonymous one.
fn challenge(answer: &Response) -> Option<&str> {
    let challenge = answer.header("www-authenticate")?;
    challenge.split(",error=").next()
}
