//! A manager in this process, and those who come to it over HTTP.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use darter_manager::app::{App, AppError};
use darter_manager::config::Config;
use darter_service::config::Secret;
use darter_service::net::{Address, Network as _, TokioNetwork};
use darter_service::supervise::{Supervisor, Tasks};
use http::{Method, StatusCode};
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_util::sync::CancellationToken;

/// What a manager keeps, whether or not it runs.
pub(crate) enum Home {
    /// SQLite in this folder.
    Folder(TempDir),
    /// A database of Postgres.
    Postgres(Secret),
}

impl Home {
    pub(crate) fn folder() -> Self {
        Self::Folder(TempDir::new().unwrap())
    }
}

/// A manager that runs.
pub(crate) struct Manager {
    address: String,
    /// Where schedulers and nodes join.
    pub(crate) roles: String,
    pub(crate) password: Option<String>,
    pub(crate) clock: Arc<AtomicI64>,
    stop: CancellationToken,
    ended: tokio::task::JoinHandle<()>,
}

impl Manager {
    pub(crate) async fn start(home: &Home) -> Self {
        Self::start_with(home, |_| {}).await
    }

    pub(crate) async fn start_with(home: &Home, change: impl FnOnce(&mut Config)) -> Self {
        let clock = Arc::new(AtomicI64::new(1_800_000_000_000));
        let stop = CancellationToken::new();
        let mut supervisor = Supervisor::new(stop.clone());
        let app = Self::bind(home, change, &clock, supervisor.tasks())
            .await
            .unwrap();
        let (address, password) = (app.address().to_owned(), app.first_password.clone());
        let (store, roles) = (app.store(), app.roles_address().to_owned());
        app.add_to(&mut supervisor, &stop);
        #[expect(clippy::disallowed_methods, reason = "the test is the supervisor's owner")]
        let ended = tokio::spawn(async move {
            supervisor.run(std::time::Duration::from_secs(5)).await;
            store.close().await;
        });
        Self {
            address,
            roles,
            password: password.map(|password| password.expose().to_owned()),
            clock,
            stop,
            ended,
        }
    }

    /// One that serves nobody yet.
    pub(crate) async fn bind(
        home: &Home,
        change: impl FnOnce(&mut Config),
        clock: &Arc<AtomicI64>,
        tasks: Tasks,
    ) -> Result<App, AppError> {
        let mut config = Config::default();
        config.web.listen = "127.0.0.1:0".parse().unwrap();
        config.roles.listen = "127.0.0.1:0".parse().unwrap();
        match home {
            Home::Folder(dir) => config.database.file = dir.path().join("folder/manager.db"),
            Home::Postgres(url) => config.database.url = url.clone(),
        }
        change(&mut config);
        let read = Arc::clone(clock);
        let clock = Arc::new(move || read.fetch_add(1, Ordering::Relaxed));
        App::bind(&config, &TokioNetwork, &mut Registry::default(), clock, tasks).await
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> Address {
        self.address.parse().unwrap()
    }

    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.ended.await.unwrap();
    }

    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<Value>,
    ) -> Answer {
        let mut stream = TokioNetwork.connect(&self.address).await.unwrap();
        let body = body.map(|body| body.to_string()).unwrap_or_default();
        let mut head = format!("{method} {path} HTTP/1.1\r\nhost: darter\r\nconnection: close\r\n");
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if !body.is_empty() {
            head.push_str(&format!(
                "content-type: application/json\r\ncontent-length: {}\r\n",
                body.len()
            ));
        }
        stream
            .write_all(format!("{head}\r\n{body}").as_bytes())
            .await
            .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let mut lines = head.lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap();
        Answer {
            status: status.parse().unwrap(),
            headers: lines
                .filter_map(|line| line.split_once(": "))
                .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
                .collect(),
            text: body.to_owned(),
        }
    }

    pub(crate) async fn sign_in(&self, name: &str, password: &str) -> Answer {
        let body = json!({ "name": name, "password": password });
        self.send(Method::POST, "/api/v1/session", &[], Some(body)).await
    }

    /// Somebody who is signed in.
    pub(crate) async fn session(&self, name: &str, password: &str) -> Caller<'_> {
        let answer = self.sign_in(name, password).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
        let cookie = answer.headers["set-cookie"].split(';').next().unwrap().to_owned();
        Caller {
            manager: self,
            headers: vec![("cookie", cookie), ("x-darter-request", "1".to_owned())],
        }
    }

    pub(crate) async fn admin(&self) -> Caller<'_> {
        self.session("admin", self.password.as_deref().unwrap()).await
    }
}

pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) text: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("{}", self.text))
    }

    /// Asserts its status, and gives its body.
    pub(crate) fn is(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text);
        match self.text.is_empty() {
            true => Value::Null,
            false => self.json(),
        }
    }

    pub(crate) fn detail(&self) -> String {
        self.json()["detail"].as_str().unwrap().to_owned()
    }
}

pub(crate) struct Caller<'m> {
    pub(crate) manager: &'m Manager,
    pub(crate) headers: Vec<(&'static str, String)>,
}

impl<'m> Caller<'m> {
    pub(crate) fn with_token(manager: &'m Manager, token: &str) -> Self {
        let headers = vec![("authorization", format!("Bearer {token}"))];
        Self { manager, headers }
    }

    pub(crate) async fn send(&self, method: Method, path: &str, body: Option<Value>) -> Answer {
        let headers: Vec<(&str, &str)> = self
            .headers
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        self.manager.send(method, path, &headers, body).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, None).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Answer {
        self.send(Method::POST, path, Some(body)).await
    }

    pub(crate) async fn put(&self, path: &str, body: Value) -> Answer {
        self.send(Method::PUT, path, Some(body)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.send(Method::DELETE, path, None).await
    }

    /// Makes a user and signs them in.
    pub(crate) async fn user(&self, name: &str, role: &str) -> (String, Caller<'m>) {
        let password = format!("password of {name}");
        let body = json!({ "name": name, "role": role, "password": password });
        let made = self.post("/api/v1/users", body).await.is(201);
        (
            made["id"].as_str().unwrap().to_owned(),
            self.manager.session(name, &password).await,
        )
    }
}
