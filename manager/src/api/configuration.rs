//! What the members of a cluster are told to do: one document, in versions.
//!
//! What must hold: a version is never changed; a new one says which one it replaces, so that of two people who change it at
//! once one hears of the other; nothing is kept that members would refuse for its form.

use std::collections::BTreeSet;

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::{Extension, Json};
use darter_service::config::ConfigError;
use darter_service::manager::document::{DOCUMENT_BYTES_MAX, Document};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use super::problem::{FieldProblem, Problem};
use super::{Shared, Who};
use crate::store::StoreError;
use crate::store::configurations;

/// Longest comment, in characters.
const COMMENT_CHARS_MAX: usize = 1000;
/// Versions that are listed without a limit in the request, and the most that are.
const LISTED: u32 = 100;
const LISTED_MAX: u32 = 1000;

/// One version of a cluster's configuration.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Configuration {
    #[serde(flatten)]
    version: Version,
    /// The document: the sections `proxy` and `scheduler`. A key that is absent leaves what a member's own file says.
    #[schema(value_type = Object)]
    document: Value,
}

/// What is known of a version.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Version {
    /// Its number, from 1; 0 for a cluster that has none yet.
    version: i64,
    /// Who made it.
    author: String,
    /// What they said of it.
    comment: String,
    /// When, in milliseconds since 1970.
    created: i64,
}

/// A version to be.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct NewConfiguration {
    /// The newest version as its author knows it; 0 for none.
    replaces: i64,
    /// What it is for, in at most 1,000 characters.
    #[serde(default)]
    comment: String,
    /// The whole document.
    #[schema(value_type = Object)]
    document: Value,
}

/// A version to go back to.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RollBack {
    /// The newest version as its author knows it.
    replaces: i64,
    /// Whose document is to be the newest again.
    to: i64,
}

/// One key that differs between two versions.
#[derive(Debug, PartialEq, Serialize, ToSchema)]
pub struct Change {
    /// Which, such as `proxy.pull.bytesPerSecondMax`.
    path: String,
    /// What it was; null when it was absent.
    #[schema(value_type = Option<Object>)]
    from: Value,
    /// What it is; null when it is absent.
    #[schema(value_type = Option<Object>)]
    to: Value,
}

/// Which version.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct Which {
    /// Its number; the newest if absent.
    version: Option<i64>,
}

/// Which versions.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct Page {
    /// The last version of the page before.
    before: Option<i64>,
    /// Most that are listed, up to 1,000; 100 by default.
    limit: Option<u32>,
}

/// Two versions; 0 is the empty one.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct Between {
    /// The one.
    from: i64,
    /// The other.
    to: i64,
}

impl From<&configurations::Configuration> for Version {
    fn from(kept: &configurations::Configuration) -> Self {
        Self {
            version: kept.version,
            author: kept.author.clone(),
            comment: kept.comment.clone(),
            created: kept.created,
        }
    }
}

impl From<configurations::Configuration> for Configuration {
    fn from(kept: configurations::Configuration) -> Self {
        Self {
            version: (&kept).into(),
            document: serde_json::from_str(&kept.document).unwrap_or_default(),
        }
    }
}

/// A cluster that has no version yet.
fn none(cluster: &str) -> configurations::Configuration {
    configurations::Configuration {
        cluster: cluster.to_owned(),
        version: 0,
        author: String::new(),
        comment: String::new(),
        document: "{}".to_owned(),
        created: 0,
    }
}

/// The newest version, or one of those before
#[utoipa::path(
    get, path = "/api/v1/clusters/{id}/configuration", tag = "configuration", params(("id" = String, Path), Which),
    responses((status = 200, body = Configuration), (status = 404, body = Problem)),
)]
pub(super) async fn get(
    State(shared): State<Shared>,
    Path(id): Path<String>,
    which: Result<Query<Which>, QueryRejection>,
) -> Result<Json<Configuration>, Problem> {
    let Query(which) = which?;
    Ok(Json(find(&shared, &id, which.version).await?.into()))
}

async fn find(
    shared: &Shared,
    cluster: &str,
    version: Option<i64>,
) -> Result<configurations::Configuration, Problem> {
    shared.store.cluster(cluster).await?;
    let found = shared.store.configuration(cluster, version).await?;
    match (found, version) {
        (Some(found), _) => Ok(found),
        (None, None | Some(0)) => Ok(none(cluster)),
        (None, Some(_)) => Err(Problem::not_found(
            "the cluster has no such version, or not any more",
        )),
    }
}

/// Makes a new version
///
/// Members apply it within seconds, each of them whole or not at all; see who did in the list of members.
#[utoipa::path(
    put, path = "/api/v1/clusters/{id}/configuration", tag = "configuration", request_body = NewConfiguration,
    params(("id" = String, Path)),
    responses(
        (status = 200, body = Configuration), (status = 404, body = Problem), (status = 409, body = Problem),
        (status = 422, body = Problem),
    ),
)]
pub(super) async fn change(
    State(shared): State<Shared>,
    Extension(who): Who,
    Path(id): Path<String>,
    asked: Result<Json<NewConfiguration>, JsonRejection>,
) -> Result<Json<Configuration>, Problem> {
    let Json(asked) = asked?;
    let document = checked(asked.document, &asked.comment)?;
    add(&shared, &who.name, &id, asked.replaces, asked.comment, document).await
}

/// The versions of a cluster, newest first
#[utoipa::path(
    get, path = "/api/v1/clusters/{id}/configuration/history", tag = "configuration",
    params(("id" = String, Path), Page),
    responses((status = 200, body = Vec<Version>), (status = 404, body = Problem)),
)]
pub(super) async fn history(
    State(shared): State<Shared>,
    Path(id): Path<String>,
    page: Result<Query<Page>, QueryRejection>,
) -> Result<Json<Vec<Version>>, Problem> {
    let Query(page) = page?;
    shared.store.cluster(&id).await?;
    let limit = page.limit.unwrap_or(LISTED).min(LISTED_MAX);
    let before = page.before.unwrap_or(i64::MAX);
    let found = shared.store.configurations(&id, before, limit).await?;
    Ok(Json(found.iter().map(Version::from).collect()))
}

/// What differs between two versions
#[utoipa::path(
    get, path = "/api/v1/clusters/{id}/configuration/diff", tag = "configuration",
    params(("id" = String, Path), Between),
    responses((status = 200, body = Vec<Change>), (status = 404, body = Problem)),
)]
pub(super) async fn diff(
    State(shared): State<Shared>,
    Path(id): Path<String>,
    between: Result<Query<Between>, QueryRejection>,
) -> Result<Json<Vec<Change>>, Problem> {
    let Query(between) = between?;
    let from = find(&shared, &id, Some(between.from)).await?;
    let to = find(&shared, &id, Some(between.to)).await?;
    Ok(Json(changes(&from.document, &to.document)))
}

/// Makes an older version's document the newest again
///
/// It becomes a version of its own; nothing of the history is lost.
#[utoipa::path(
    post, path = "/api/v1/clusters/{id}/configuration/roll-back", tag = "configuration", request_body = RollBack,
    params(("id" = String, Path)),
    responses(
        (status = 200, body = Configuration), (status = 404, body = Problem), (status = 409, body = Problem),
        (status = 422, body = Problem),
    ),
)]
pub(super) async fn roll_back(
    State(shared): State<Shared>,
    Extension(who): Who,
    Path(id): Path<String>,
    asked: Result<Json<RollBack>, JsonRejection>,
) -> Result<Json<Configuration>, Problem> {
    let Json(asked) = asked?;
    let old = find(&shared, &id, Some(asked.to)).await?;
    let comment = format!("back to version {}", asked.to);
    // It may be of an earlier release, whose keys are not this one's.
    let document = checked(serde_json::from_str(&old.document).unwrap_or_default(), &comment)?;
    add(&shared, &who.name, &id, asked.replaces, comment, document).await
}

/// The document as it is kept, or everything that is wrong with it.
fn checked(document: Value, comment: &str) -> Result<Document, Problem> {
    let mut problems = Vec::new();
    if comment.chars().count() > COMMENT_CHARS_MAX {
        problems.push(FieldProblem {
            field: "comment".to_owned(),
            message: format!("write at most {COMMENT_CHARS_MAX} characters"),
        });
    }
    if document.to_string().len() > DOCUMENT_BYTES_MAX {
        problems.push(FieldProblem {
            field: "document".to_owned(),
            message: format!("write at most {DOCUMENT_BYTES_MAX} bytes"),
        });
        Problem::fields(std::mem::take(&mut problems))?;
    }
    match Document::read(document) {
        Ok(document) => Problem::fields(problems).map(|()| document),
        Err(error) => {
            problems.extend(fields(error));
            Problem::fields(problems).map(|()| Document::default())
        }
    }
}

fn fields(error: ConfigError) -> impl Iterator<Item = FieldProblem> {
    error.problems.into_iter().map(|problem| FieldProblem {
        field: match problem.path.as_str() {
            "" => "document".to_owned(),
            path => format!("document.{path}"),
        },
        message: problem.message,
    })
}

async fn add(
    shared: &Shared,
    who: &str,
    cluster: &str,
    replaces: i64,
    comment: String,
    document: Document,
) -> Result<Json<Configuration>, Problem> {
    let name = shared.store.cluster(cluster).await?.name;
    let created = shared.now();
    let kept = nested(&document);
    let added = configurations::Configuration {
        cluster: cluster.to_owned(),
        version: replaces.saturating_add(1),
        author: who.to_owned(),
        comment,
        document: kept,
        created,
    };
    let set: Vec<String> = document
        .set()
        .into_iter()
        .map(|(path, value)| format!("{path} = {value}"))
        .collect();
    let detail = format!("version {}: {}", added.version, set.join(", "));
    let entry = shared.entry(who, "configuration.change", &name, detail)?;
    match shared.store.add_configuration(&added, entry).await {
        Ok(()) => {}
        Err(StoreError::Exists) => {
            return Err(Problem::new(
                StatusCode::CONFLICT,
                format!("version {replaces} is not the newest: read it again, and put your change on that"),
            ));
        }
        Err(other) => return Err(other.into()),
    }
    shared.changed.notify_one();
    Ok(Json(added.into()))
}

/// The document as JSON with the keys that it sets and no others: a release that has more keys, or fewer, reads the same.
fn nested(document: &Document) -> String {
    let mut tree = Value::Object(serde_json::Map::new());
    for (path, value) in document.set() {
        let mut at = &mut tree;
        for key in path.split('.') {
            at = &mut at[key];
        }
        *at = value;
    }
    tree.to_string()
}

fn changes(from: &str, to: &str) -> Vec<Change> {
    let set = |text: &str| {
        Document::parse(text)
            .map(|document| document.set())
            .unwrap_or_default()
    };
    let (from, to) = (set(from), set(to));
    let paths: BTreeSet<&String> = from.keys().chain(to.keys()).collect();
    let value = |set: &std::collections::BTreeMap<String, Value>, path: &String| {
        set.get(path).cloned().unwrap_or_default()
    };
    let all = paths.into_iter().map(|path| Change {
        path: path.clone(),
        from: value(&from, path),
        to: value(&to, path),
    });
    all.filter(|change| change.from != change.to).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_kept_has_the_keys_that_are_set_and_means_the_same() {
        let given = json!({
            "proxy": {"store": {"registryQuotas": {"docker.io": "1GiB"}, "quota": null}, "seeds": []},
            "scheduler": {"parents": {"countMax": 8}},
        });
        let document = Document::read(given).unwrap();
        let kept: Value = serde_json::from_str(&nested(&document)).unwrap();
        assert_eq!(
            kept,
            json!({
                "proxy": {"store": {"registryQuotas": {"docker.io": "1GiB"}}, "seeds": []},
                "scheduler": {"parents": {"countMax": 8}},
            })
        );
        assert_eq!(Document::read(kept).unwrap(), document);
        assert_eq!(nested(&Document::default()), "{}");
    }

    #[test]
    fn only_what_differs_is_a_change() {
        let from = r#"{"scheduler": {"parents": {"countMax": 8}}, "proxy": {"store": {"quota": "1GiB"}}}"#;
        let to = r#"{"scheduler": {"parents": {"countMax": 9}}, "proxy": {"store": {"quota": "1024MiB"}}}"#;
        let change = |path: &str, from: Value, to: Value| Change {
            path: path.to_owned(),
            from,
            to,
        };
        assert_eq!(
            changes(from, to),
            [change("scheduler.parents.countMax", json!(8), json!(9))]
        );
        assert_eq!(
            changes(from, "{}").last(),
            Some(&change("scheduler.parents.countMax", json!(8), Value::Null))
        );
    }
}
