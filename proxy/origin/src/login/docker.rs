//! Docker's configuration file: credentials in `auths`, or from programs by `credHelpers` and `credsStore`.
//!
//! Sources: docker/cli `cli/config/configfile` for the file, docker/docker-credential-helpers for the programs' protocol.

use std::collections::BTreeMap;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use darter_service::secret_file;
use darter_types::RegistryName;
use serde::Deserialize;

use super::{Given, KEPT_TIME, Login, LoginError, helper};

/// Under this name Docker keeps what is for its Hub.
const HUB: &str = "https://index.docker.io/v1/";
/// The user's name that says that the secret is an identity token.
const IDENTITY: &str = "<token>";

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct File {
    auths: BTreeMap<String, Auth>,
    cred_helpers: BTreeMap<String, String>,
    creds_store: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Auth {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
    registrytoken: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

/// Reads the file anew, and asks the program that it names for this registry.
pub(super) async fn ask(path: &Path, registry: &RegistryName) -> Result<Given, LoginError> {
    let form = |reason: String| LoginError::Form {
        path: path.display().to_string(),
        reason,
    };
    // The library's own words could quote the file.
    let file: File = serde_json::from_slice(&secret_file::read(path)?)
        .map_err(|error| form(format!("line {} is not as Docker writes it", error.line())))?;
    let server = server(registry);
    let named = file
        .cred_helpers
        .iter()
        .find(|(key, _)| is_for(key, registry))
        .map(|(_, helper)| helper.as_str());
    let (helper, last) = match named {
        Some(helper) => (helper, true),
        None => (file.creds_store.as_str(), false),
    };
    if !helper.is_empty() {
        let given = from_helper(helper, server).await;
        if last || given.is_ok() {
            return given;
        }
    }
    let auth = file.auths.iter().find(|(key, _)| is_for(key, registry));
    let (_, auth) = auth.ok_or_else(|| LoginError::Absent(path.display().to_string()))?;
    Ok(Given {
        login: auth.login()?,
        life: KEPT_TIME,
        narrow: false,
    })
}

impl Auth {
    fn login(&self) -> Result<Login, LoginError> {
        if !self.registrytoken.is_empty() {
            return Login::token(&self.registrytoken);
        }
        if !self.identitytoken.is_empty() {
            return Err(identity());
        }
        if !self.auth.is_empty() {
            let wrong = || LoginError::Answer("`auth` is not user:password in base64".to_owned());
            let pair = STANDARD.decode(&self.auth).map_err(|_| wrong())?;
            let pair = String::from_utf8(pair).map_err(|_| wrong())?;
            let (user, password) = pair.split_once(':').ok_or_else(wrong)?;
            // Docker pads with zero bytes in old files.
            return Login::basic(user, password.trim_end_matches('\0'));
        }
        if self.username.is_empty() {
            return Err(LoginError::Answer(
                "the entry has neither auth nor username".to_owned(),
            ));
        }
        Login::basic(&self.username, &self.password)
    }
}

async fn from_helper(name: &str, server: &str) -> Result<Given, LoginError> {
    let plain = name
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    if !plain {
        return Err(LoginError::Answer(
            "the name of a helper is not a program's name".to_owned(),
        ));
    }
    let program = format!("docker-credential-{name}");
    let bytes = helper::run(Path::new(&program), &["get".to_owned()], &[], server.as_bytes()).await?;
    let answer: Answer = serde_json::from_slice(&bytes).map_err(|_| LoginError::Program {
        program,
        reason: "its answer is not JSON with Username and Secret".to_owned(),
    })?;
    if answer.username == IDENTITY {
        return Err(identity());
    }
    Ok(Given {
        login: Login::basic(&answer.username, &answer.secret)?,
        life: KEPT_TIME,
        narrow: false,
    })
}

fn identity() -> LoginError {
    LoginError::Answer(
        "identity tokens are not supported: name a user and a password, or a kubelet provider".to_owned(),
    )
}

/// What helpers are asked for.
fn server(registry: &RegistryName) -> &str {
    match registry.as_str() {
        "docker.io" => HUB,
        other => other,
    }
}

/// Whether a key of the file means this registry: with or without scheme and path.
fn is_for(key: &str, registry: &RegistryName) -> bool {
    let bare = key
        .strip_prefix("https://")
        .or_else(|| key.strip_prefix("http://"))
        .unwrap_or(key);
    let host = bare.split('/').next().unwrap_or_default();
    match registry.as_str() {
        "docker.io" => matches!(host, "docker.io" | "index.docker.io" | "registry-1.docker.io"),
        other => host.eq_ignore_ascii_case(other),
    }
}
