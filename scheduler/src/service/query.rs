//! The operator's questions.

use darter_proto::pb::scheduler::v1 as pb;
use darter_proto::pb::scheduler::v1::query_server::Query as QueryService;
use darter_types::{HostId, TaskId};
use tokio::sync::oneshot;
use tonic::{Request, Response, Status};

use super::{Command, Handle, stopping};

/// The operator's service.
#[derive(Clone, Debug)]
pub(super) struct Query(pub(super) Handle);

impl Query {
    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, Status> {
        let (sender, answer) = oneshot::channel();
        self.0.tell(command(sender)).await?;
        answer.await.map_err(|_| stopping())
    }
}

fn task(name: &str) -> Result<TaskId, Status> {
    name.parse()
        .map_err(|error: darter_types::TaskIdError| Status::invalid_argument(error.to_string()))
}

fn host(name: &str) -> Result<HostId, Status> {
    name.parse()
        .map_err(|error: darter_types::HostIdError| Status::invalid_argument(error.to_string()))
}

#[tonic::async_trait]
impl QueryService for Query {
    async fn list_tasks(
        &self,
        request: Request<pb::ListTasksRequest>,
    ) -> Result<Response<pb::ListTasksResponse>, Status> {
        let request = request.into_inner();
        let after = match request.after.as_str() {
            "" => None,
            name => Some(task(name)?),
        };
        let limit = usize::try_from(request.limit).unwrap_or(usize::MAX);
        let answer = self
            .ask(|answer| Command::ListTasks(after, limit, answer))
            .await?;
        Ok(Response::new(answer))
    }

    async fn get_task(
        &self,
        request: Request<pb::GetTaskRequest>,
    ) -> Result<Response<pb::GetTaskResponse>, Status> {
        let id = task(&request.into_inner().task)?;
        let answer = self.ask(|answer| Command::GetTask(id, answer)).await?;
        let missing = || Status::not_found(format!("no node holds or wants {id}"));
        Ok(Response::new(answer.ok_or_else(missing)?))
    }

    async fn list_hosts(
        &self,
        request: Request<pb::ListHostsRequest>,
    ) -> Result<Response<pb::ListHostsResponse>, Status> {
        let request = request.into_inner();
        let after = match request.after.as_str() {
            "" => None,
            name => Some(host(name)?),
        };
        let limit = usize::try_from(request.limit).unwrap_or(usize::MAX);
        let answer = self
            .ask(|answer| Command::ListHosts(after, limit, answer))
            .await?;
        Ok(Response::new(answer))
    }
}
