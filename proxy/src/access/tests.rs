//! Who may read what, for how long, and what happens when the registry cannot say.

use super::*;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use darter_types::{Algorithm, ContentKind, Digest};
use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderValue, Response};
use proptest::prelude::*;

/// A registry in memory: which credential opens which repository, and what it was asked.
#[derive(Debug, Default)]
struct Registry {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    public: BTreeSet<String>,
    readers: BTreeSet<(String, String)>,
    contents: BTreeSet<Digest>,
    tags: BTreeMap<String, Digest>,
    down: bool,
    lends: bool,
    asked: Vec<String>,
}

impl Registry {
    fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap());
    }

    /// What it was asked since the last call.
    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().unwrap().asked)
    }

    fn answer(
        &self,
        repository: &str,
        what: &str,
        digest: Option<Digest>,
        credentials: &Credentials,
    ) -> HeadResult {
        let mut state = self.state.lock().unwrap();
        let who = match credentials {
            Credentials::Anonymous => "anybody".to_owned(),
            Credentials::Node => "node".to_owned(),
            Credentials::Caller(value) => value.to_str().unwrap().to_owned(),
            Credentials::Address(_) => unreachable!("no test of access asks so"),
        };
        state.asked.push(format!("{who} {what}"));
        let status = |code: StatusCode| {
            Arc::new(OriginError::Status {
                registry: "r.test".to_owned(),
                status: code,
                headers: HeaderMap::new(),
                body: Bytes::new(),
            })
        };
        if state.down {
            return Err(Arc::new(OriginError::Unreachable {
                registry: "r.test".to_owned(),
                reason: "down".to_owned(),
            }));
        }
        let allowed = state.public.contains(repository)
            || state.readers.contains(&(who.clone(), repository.to_owned()));
        if !allowed {
            let anonymous = *credentials == Credentials::Anonymous;
            return Err(status(if anonymous {
                StatusCode::UNAUTHORIZED
            } else {
                StatusCode::FORBIDDEN
            }));
        }
        match digest.filter(|digest| state.contents.contains(digest)) {
            Some(digest) => Ok(ContentHead {
                digest,
                length: Some(1),
                media_type: None,
            }),
            None => Err(status(StatusCode::NOT_FOUND)),
        }
    }
}

#[derive(Clone, Debug)]
struct Handle(Arc<Registry>);

impl Upstream for Handle {
    fn lends(&self, _: &RegistryName, _: &dyn Fn() -> Option<u32>) -> bool {
        self.0.state.lock().unwrap().lends
    }

    fn is_answering(&self, _: &RegistryName, _: Instant) -> bool {
        true
    }

    fn head(&self, content: OriginLocator, credentials: Credentials) -> BoxFuture<'static, HeadResult> {
        let registry = Arc::clone(&self.0);
        Box::pin(async move {
            tokio::task::yield_now().await;
            let what = name_of(content.digest);
            registry.answer(
                content.repository.as_str(),
                &what,
                Some(content.digest),
                &credentials,
            )
        })
    }

    fn resolve(&self, tag: TagQuery, credentials: Credentials) -> BoxFuture<'static, HeadResult> {
        let registry = Arc::clone(&self.0);
        Box::pin(async move {
            let digest = registry.state.lock().unwrap().tags.get(tag.tag.as_str()).copied();
            registry.answer(tag.repository.as_str(), tag.tag.as_str(), digest, &credentials)
        })
    }

    fn sample(
        &self,
        _: OriginLocator,
        _: darter_types::ByteRange,
        _: Credentials,
    ) -> BoxFuture<'static, Result<Bytes, Arc<OriginError>>> {
        unreachable!("nothing is read here")
    }

    fn relay(
        &self,
        _: Relayed,
    ) -> BoxFuture<'static, Result<Response<crate::mirror::ReplyBody>, Arc<OriginError>>> {
        unreachable!("nothing is relayed here")
    }
}

const NAMES: [&str; 4] = ["manifest", "layer", "other", "missing"];

fn digest(name: &str) -> Digest {
    Digest::of(Algorithm::Sha256, name.as_bytes())
}

fn name_of(found: Digest) -> String {
    NAMES
        .iter()
        .find(|name| digest(name) == found)
        .unwrap()
        .to_string()
}

fn content(repository: &str, name: &str) -> OriginLocator {
    OriginLocator {
        registry: "r.test".parse().unwrap(),
        repository: repository.parse().unwrap(),
        kind: if name == "layer" {
            ContentKind::Blob
        } else {
            ContentKind::Manifest
        },
        digest: digest(name),
    }
}

fn tag(repository: &str) -> TagQuery {
    TagQuery {
        registry: "r.test".parse().unwrap(),
        repository: repository.parse().unwrap(),
        tag: "v1".parse().unwrap(),
        accept: Vec::new(),
    }
}

fn lab() -> (Access, Arc<Registry>) {
    let registry = Arc::new(Registry::default());
    registry.set(|state| {
        state.public.insert("open".to_owned());
        state.readers.insert(("Bearer a".to_owned(), "closed".to_owned()));
        state.contents.extend(["manifest", "layer", "other"].map(digest));
        state.tags.insert("v1".to_owned(), digest("manifest"));
    });
    let access = Access::new(
        Arc::new(Handle(Arc::clone(&registry))),
        AccessConfig::default(),
        [7; 32],
    );
    (access, registry)
}

fn bearer(token: &'static str) -> Option<HeaderValue> {
    Some(HeaderValue::from_static(token))
}

async fn check(access: &Access, content: &OriginLocator, token: Option<&'static str>) -> String {
    let token = token.and_then(bearer);
    shown(access.check(content, token.as_ref(), Proof::Named).await)
}

fn shown(result: Result<Permit, Arc<OriginError>>) -> String {
    match result {
        Ok(permit) if permit.stale => "stale".to_owned(),
        Ok(permit) if permit.public => "public".to_owned(),
        Ok(_) => "private".to_owned(),
        Err(problem) => match &*problem {
            OriginError::Status { status, .. } => status.as_u16().to_string(),
            _ => "unreachable".to_owned(),
        },
    }
}

#[tokio::test(start_paused = true)]
async fn a_public_pull_costs_one_question() {
    let (access, registry) = lab();
    let permit = access.resolve(tag("open"), None).await.unwrap();
    access.cover(&permit, [content("open", "layer")]);
    for name in ["manifest", "layer"] {
        assert_eq!(check(&access, &content("open", name), None).await, "public");
        // A token makes no difference to what anybody may read.
        assert_eq!(
            check(&access, &content("open", name), Some("Bearer x")).await,
            "public"
        );
    }
    assert_eq!(registry.asked(), ["anybody v1"]);
}

#[tokio::test(start_paused = true)]
async fn a_private_pull_costs_two_questions_and_is_the_callers_alone() {
    let (access, registry) = lab();
    let permit = access
        .resolve(tag("closed"), bearer("Bearer a").as_ref())
        .await
        .unwrap();
    assert!(!permit.public);
    access.cover(&permit, [content("closed", "layer")]);
    assert_eq!(
        check(&access, &content("closed", "layer"), Some("Bearer a")).await,
        "private"
    );
    assert_eq!(registry.asked(), ["anybody v1", "Bearer a v1"]);
    // Others: the registry's own answers, whatever is cached.
    for _ in 0..3 {
        assert_eq!(check(&access, &content("closed", "layer"), None).await, "401");
        assert_eq!(
            check(&access, &content("closed", "layer"), Some("Bearer b")).await,
            "403"
        );
    }
    assert_eq!(registry.asked(), ["Bearer b layer"; 3]);
}

#[tokio::test(start_paused = true)]
async fn a_digest_is_no_permission_in_another_repository() {
    let (access, _) = lab();
    let permit = access
        .resolve(tag("closed"), bearer("Bearer a").as_ref())
        .await
        .unwrap();
    access.cover(&permit, [content("closed", "layer")]);
    assert_eq!(
        check(&access, &content("elsewhere", "layer"), Some("Bearer a")).await,
        "403"
    );
    assert_eq!(
        check(&access, &content("open", "missing"), Some("Bearer a")).await,
        "404"
    );
}

#[tokio::test(start_paused = true)]
async fn a_revoked_right_ends_within_a_minute() {
    let (access, registry) = lab();
    let layer = content("closed", "layer");
    let permit = access
        .resolve(tag("closed"), bearer("Bearer a").as_ref())
        .await
        .unwrap();
    tokio::time::advance(Duration::from_secs(50)).await;
    // Covering late does not make the answer any younger.
    access.cover(&permit, [layer.clone()]);
    registry.set(|state| state.readers.clear());
    assert_eq!(check(&access, &layer, Some("Bearer a")).await, "private");
    tokio::time::advance(Duration::from_secs(10)).await;
    assert_eq!(check(&access, &layer, Some("Bearer a")).await, "403");
}

#[tokio::test(start_paused = true)]
async fn one_question_renews_all_that_a_manifest_names() {
    let (access, registry) = lab();
    let permit = access
        .resolve(tag("closed"), bearer("Bearer a").as_ref())
        .await
        .unwrap();
    access.cover(&permit, [content("closed", "layer"), content("closed", "other")]);
    registry.asked();
    tokio::time::advance(Duration::from_secs(61)).await;
    assert_eq!(
        check(&access, &content("closed", "layer"), Some("Bearer a")).await,
        "private"
    );
    assert_eq!(
        check(&access, &content("closed", "other"), Some("Bearer a")).await,
        "private"
    );
    assert_eq!(registry.asked(), ["anybody layer", "Bearer a manifest"]);
}

#[tokio::test(start_paused = true)]
async fn what_the_manifest_no_longer_opens_is_asked_for_itself() {
    let (access, registry) = lab();
    let permit = access.resolve(tag("open"), None).await.unwrap();
    access.cover(&permit, [content("open", "layer")]);
    registry.asked();
    registry.set(|state| _ = state.contents.remove(&digest("manifest")));
    tokio::time::advance(Duration::from_secs(3601)).await;
    assert_eq!(check(&access, &content("open", "layer"), None).await, "public");
    assert_eq!(registry.asked(), ["anybody manifest", "anybody layer"]);
}

#[tokio::test(start_paused = true)]
async fn while_the_registry_is_down_only_public_content_is_served() {
    let (access, registry) = lab();
    assert_eq!(check(&access, &content("open", "layer"), None).await, "public");
    assert_eq!(
        check(&access, &content("closed", "layer"), Some("Bearer a")).await,
        "private"
    );
    registry.set(|state| state.down = true);
    tokio::time::advance(Duration::from_secs(3601)).await;
    assert_eq!(check(&access, &content("open", "layer"), None).await, "stale");
    assert_eq!(
        check(&access, &content("open", "other"), None).await,
        "unreachable"
    );
    assert_eq!(
        check(&access, &content("closed", "layer"), Some("Bearer a")).await,
        "unreachable"
    );
    tokio::time::advance(Duration::from_secs(24 * 3600)).await;
    assert_eq!(
        check(&access, &content("open", "layer"), None).await,
        "unreachable"
    );
}

#[tokio::test(start_paused = true)]
async fn what_turned_private_is_not_served_stale() {
    let (access, registry) = lab();
    let permit = access.resolve(tag("open"), None).await.unwrap();
    access.cover(&permit, [content("open", "layer"), content("open", "other")]);
    registry.set(|state| state.public.clear());
    tokio::time::advance(Duration::from_secs(3601)).await;
    assert_eq!(check(&access, &content("open", "layer"), None).await, "401");
    registry.set(|state| state.down = true);
    tokio::time::advance(Duration::from_secs(61)).await;
    assert_eq!(
        check(&access, &content("open", "other"), None).await,
        "unreachable"
    );
}

#[tokio::test(start_paused = true)]
async fn bytes_of_another_registry_need_an_answer_about_themselves() {
    let (access, registry) = lab();
    let permit = access.resolve(tag("open"), None).await.unwrap();
    access.cover(&permit, [content("open", "layer"), content("open", "missing")]);
    registry.asked();
    let itself = |name| {
        let (access, content) = (access.clone(), content("open", name));
        async move { shown(access.check(&content, None, Proof::Itself).await) }
    };
    // A manifest may name any digest: the registry must have it.
    assert_eq!(itself("missing").await, "404");
    assert_eq!(itself("layer").await, "public");
    assert_eq!(itself("layer").await, "public");
    assert_eq!(registry.asked(), ["anybody missing", "anybody layer"]);
}

#[tokio::test(start_paused = true)]
async fn equal_questions_are_one() {
    let (access, registry) = lab();
    let layer = content("open", "layer");
    let answers = futures_util::future::join_all((0..50).map(|_| check(&access, &layer, None))).await;
    assert!(answers.iter().all(|answer| answer == "public"));
    assert_eq!(registry.asked(), ["anybody layer"]);
}

#[tokio::test(start_paused = true)]
async fn no_answer_shows_a_credential() {
    let (access, _) = lab();
    let token = bearer("Bearer a");
    let permit = access
        .check(&content("closed", "layer"), token.as_ref(), Proof::Named)
        .await
        .unwrap();
    for text in [format!("{access:?}"), format!("{permit:?}")] {
        assert!(!text.contains("Bearer") && !text.contains("7, 7"), "{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_nodes_own_credentials_are_for_callers_that_bring_none() {
    let (access, registry) = lab();
    let closed = content("closed", "manifest");
    registry.set(|state| {
        state.readers.insert(("node".to_owned(), "closed".to_owned()));
    });
    assert_eq!(check(&access, &closed, None).await, "401");
    registry.set(|state| state.lends = true);
    registry.asked();
    assert_eq!(check(&access, &closed, None).await, "private");
    assert_eq!(
        registry.asked(),
        ["node manifest"],
        "and nobody asks as anybody again so soon"
    );
    let permit = access.check(&closed, None, Proof::Named).await.unwrap();
    assert_eq!((permit.credentials, permit.public), (Credentials::Node, false));
    // Whoever shows something of his own gets what that is worth.
    assert_eq!(check(&access, &closed, Some("Bearer b")).await, "403");
    assert_eq!(check(&access, &closed, Some("Bearer a")).await, "private");
    assert_eq!(registry.asked(), ["Bearer b manifest", "Bearer a manifest"]);
    // What is public is asked for by nobody's.
    assert_eq!(check(&access, &content("open", "manifest"), None).await, "public");
    assert_eq!(registry.asked(), ["anybody manifest"]);
}

#[tokio::test(start_paused = true)]
async fn a_right_of_the_node_that_is_taken_back_is_gone_within_a_minute() {
    let (access, registry) = lab();
    let closed = content("closed", "manifest");
    registry.set(|state| {
        state.lends = true;
        state.readers.insert(("node".to_owned(), "closed".to_owned()));
    });
    assert_eq!(check(&access, &closed, None).await, "private");
    registry.set(|state| {
        state.readers.clear();
    });
    tokio::time::advance(Duration::from_secs(61)).await;
    assert_eq!(check(&access, &closed, None).await, "403");
}

/// A question about a tag, a manifest or a blob, of few names that are made of each other.
fn subject() -> impl Strategy<Value = Subject> {
    let registry = prop::sample::select(vec!["a.test", "a.test:80", "b.test", "v2.test"]);
    let word = prop::sample::select(vec!["a", "b", "v1", "v2", "manifests", "blobs", "a.test"]);
    let repository = prop::collection::vec(word.clone(), 1..5).prop_map(|words| words.join("/"));
    let accept = prop::collection::vec(prop::sample::select(vec!["x", "y", "x, y", "x,y"]), 0..3);
    (registry, repository, word, accept, 0..4u8).prop_map(|(registry, repository, word, accept, what)| {
        let content = |kind| {
            Subject::Content(OriginLocator {
                registry: registry.parse().unwrap(),
                repository: repository.parse().unwrap(),
                kind,
                digest: digest(word),
            })
        };
        match what {
            0 => content(ContentKind::Blob),
            1 => content(ContentKind::Manifest),
            _ => Subject::Tag(TagQuery {
                registry: registry.parse().unwrap(),
                repository: repository.parse().unwrap(),
                tag: word.parse().unwrap(),
                accept: accept.into_iter().map(HeaderValue::from_static).collect(),
            }),
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(darter_testkit::cases(4096, 1_000_000)))]
    /// Questions that share a key share an answer.
    #[test]
    fn unequal_questions_have_unequal_keys(a in subject(), b in subject()) {
        let key = |subject: &Subject| (subject.path(), subject.accept());
        let equal = match (&a, &b) {
            (Subject::Content(a), Subject::Content(b)) => a == b,
            (Subject::Tag(a), Subject::Tag(b)) => a == b,
            _ => false,
        };
        prop_assert_eq!(key(&a) == key(&b), equal);
    }
}
