//! The gRPC service: translates, calls, translates.

use std::time::{SystemTime, UNIX_EPOCH};

use tokio_stream::Iter;
use tonic::{Code, Request, Response, Status};

use super::catalog::{Kind, Labels, Refusal, Snapshot, Wanted};
use super::core::{Core, CoreError};
use super::layout::Mounting;
use super::metrics::{Method, Metrics, Outcome};
use super::proto::services::snapshots::v1 as pb;
use super::proto::services::snapshots::v1::snapshots_server::Snapshots;
use super::proto::types::Mount;

/// Snapshots in one message of a list.
const BATCH: usize = 100;

/// Answers containerd.
#[derive(Debug)]
pub(super) struct Service {
    core: Core,
    metrics: Metrics,
}

impl Service {
    pub(super) fn new(core: Core, metrics: Metrics) -> Self {
        Self { core, metrics }
    }

    async fn begin(&self, method: Method, wanted: Wanted) -> Result<Vec<Mount>, Status> {
        let begun = self.core.begin(wanted).await;
        Ok(mounts(self.answer(method, begun)?))
    }

    /// Counts an answer. What is not the asker's fault is logged, as it stops here, and so is an image that takes others' files.
    fn answer<T>(&self, method: Method, done: Result<T, CoreError>) -> Result<T, Status> {
        done.inspect(|_| self.metrics.answered(method, Outcome::Done))
            .map_err(|error| {
                let status = status(&error);
                self.metrics.answered(method, outcome(status.code()));
                match (&error, status.code()) {
                    (_, Code::Internal) => tracing::error!(?method, %error, "a request of containerd failed"),
                    (CoreError::Refused(Refusal::Chunks { .. }), _) => {
                        tracing::warn!(?method, %error, "nothing is shown without the files of a layer");
                    }
                    _ => {}
                }
                status
            })
    }
}

/// A failure is what an operator can do something about. That a name is taken, or that nobody has it, is an answer.
fn outcome(code: Code) -> Outcome {
    match code {
        Code::Internal | Code::Unavailable | Code::ResourceExhausted => Outcome::Failed,
        _ => Outcome::Refused,
    }
}

/// What containerd makes of an error depends on its code alone.
fn status(error: &CoreError) -> Status {
    let code = match error {
        CoreError::Refused(Refusal::NotFound(_)) => Code::NotFound,
        CoreError::Refused(Refusal::Exists(_)) => Code::AlreadyExists,
        CoreError::Refused(Refusal::State { .. } | Refusal::Chunks { .. }) => Code::FailedPrecondition,
        CoreError::Refused(Refusal::Invalid(_)) | CoreError::Filter(_) => Code::InvalidArgument,
        CoreError::Refused(Refusal::Full) => Code::ResourceExhausted,
        CoreError::Image(_) | CoreError::Reference(_) | CoreError::Stopping => Code::Unavailable,
        CoreError::Store(_) | CoreError::System { .. } => Code::Internal,
    };
    Status::new(code, error.to_string())
}

#[tonic::async_trait]
impl Snapshots for Service {
    async fn prepare(
        &self,
        request: Request<pb::PrepareSnapshotRequest>,
    ) -> Result<Response<pb::PrepareSnapshotResponse>, Status> {
        let asked = request.into_inner();
        let wanted = wanted(Kind::Active, asked.key, asked.parent, asked.labels);
        let mounts = self.begin(Method::Prepare, wanted).await?;
        Ok(Response::new(pb::PrepareSnapshotResponse { mounts }))
    }

    async fn view(
        &self,
        request: Request<pb::ViewSnapshotRequest>,
    ) -> Result<Response<pb::ViewSnapshotResponse>, Status> {
        let asked = request.into_inner();
        let wanted = wanted(Kind::View, asked.key, asked.parent, asked.labels);
        let mounts = self.begin(Method::View, wanted).await?;
        Ok(Response::new(pb::ViewSnapshotResponse { mounts }))
    }

    async fn mounts(
        &self,
        request: Request<pb::MountsRequest>,
    ) -> Result<Response<pb::MountsResponse>, Status> {
        let found = self.core.mounts(request.into_inner().key).await;
        let mounts = mounts(self.answer(Method::Mounts, found)?);
        Ok(Response::new(pb::MountsResponse { mounts }))
    }

    async fn commit(&self, request: Request<pb::CommitSnapshotRequest>) -> Result<Response<()>, Status> {
        let asked = request.into_inner();
        let labels = asked.labels.into_iter().collect();
        let committed = self.core.commit(asked.name, asked.key, labels).await;
        Ok(Response::new(self.answer(Method::Commit, committed)?))
    }

    async fn remove(&self, request: Request<pb::RemoveSnapshotRequest>) -> Result<Response<()>, Status> {
        let removed = self.core.remove(request.into_inner().key).await;
        Ok(Response::new(self.answer(Method::Remove, removed)?))
    }

    async fn stat(
        &self,
        request: Request<pb::StatSnapshotRequest>,
    ) -> Result<Response<pb::StatSnapshotResponse>, Status> {
        let name = request.into_inner().key;
        let found = self.core.stat(name.clone()).await;
        let info = Some(info(name, self.answer(Method::Stat, found)?));
        Ok(Response::new(pb::StatSnapshotResponse { info }))
    }

    async fn update(
        &self,
        request: Request<pb::UpdateSnapshotRequest>,
    ) -> Result<Response<pb::UpdateSnapshotResponse>, Status> {
        let asked = request.into_inner();
        let new = asked.info.unwrap_or_default();
        let fields = asked.update_mask.unwrap_or_default().paths;
        let labels = new.labels.into_iter().collect();
        let updated = self.core.update(new.name.clone(), labels, fields).await;
        let info = Some(info(new.name, self.answer(Method::Update, updated)?));
        Ok(Response::new(pb::UpdateSnapshotResponse { info }))
    }

    type ListStream = Iter<std::vec::IntoIter<Result<pb::ListSnapshotsResponse, Status>>>;

    async fn list(
        &self,
        request: Request<pb::ListSnapshotsRequest>,
    ) -> Result<Response<Self::ListStream>, Status> {
        let found = self.core.list(request.into_inner().filters).await;
        let found = self.answer(Method::List, found)?;
        let infos: Vec<pb::Info> = found
            .into_iter()
            .map(|(name, snapshot)| info(name, snapshot))
            .collect();
        let batches = infos
            .chunks(BATCH)
            .map(|batch| Ok(pb::ListSnapshotsResponse { info: batch.to_vec() }));
        let batches: Vec<_> = batches.collect();
        Ok(Response::new(tokio_stream::iter(batches)))
    }

    async fn usage(&self, request: Request<pb::UsageRequest>) -> Result<Response<pb::UsageResponse>, Status> {
        let counted = self.core.usage(request.into_inner().key).await;
        let usage = self.answer(Method::Usage, counted)?;
        Ok(Response::new(pb::UsageResponse {
            size: i64::try_from(usage.bytes).unwrap_or(i64::MAX),
            inodes: i64::try_from(usage.inodes).unwrap_or(i64::MAX),
        }))
    }

    async fn cleanup(&self, _: Request<pb::CleanupRequest>) -> Result<Response<()>, Status> {
        let cleaned = self.core.cleanup().await;
        Ok(Response::new(self.answer(Method::Cleanup, cleaned)?))
    }
}

fn wanted(
    kind: Kind,
    key: String,
    parent: String,
    labels: impl IntoIterator<Item = (String, String)>,
) -> Wanted {
    Wanted {
        key,
        parent: Some(parent).filter(|parent| !parent.is_empty()),
        kind,
        labels: labels.into_iter().collect::<Labels>(),
    }
}

fn mounts(mountings: Vec<Mounting>) -> Vec<Mount> {
    let mount = |mounting: Mounting| Mount {
        r#type: mounting.kind.to_owned(),
        source: mounting.source,
        target: String::new(),
        options: mounting.options,
    };
    mountings.into_iter().map(mount).collect()
}

fn info(name: String, snapshot: Snapshot) -> pb::Info {
    let kind = match snapshot.kind {
        Kind::View => pb::Kind::View,
        Kind::Active => pb::Kind::Active,
        Kind::Committed => pb::Kind::Committed,
    };
    pb::Info {
        name,
        parent: snapshot.parent.unwrap_or_default(),
        kind: kind.into(),
        created_at: Some(timestamp(snapshot.created)),
        updated_at: Some(timestamp(snapshot.updated)),
        labels: snapshot.labels.into_iter().collect(),
    }
}

fn timestamp(time: SystemTime) -> prost_types::Timestamp {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    prost_types::Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(since.subsec_nanos()).unwrap_or_default(),
    }
}
