//! The kubelet's credential providers: its `CredentialProviderConfig`, and programs that answer for an image.
//!
//! Sources: kubelet.config.k8s.io/v1 and credentialprovider.kubelet.k8s.io/v1 in the Kubernetes reference; how images
//! are matched is in its "Configure a kubelet image credential provider".

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use darter_types::RegistryName;
use serde::Deserialize;
use serde_json::json;

use super::{Given, Login, LoginError, helper};

const CONFIG_VERSION: &str = "kubelet.config.k8s.io/v1";
const API_VERSION: &str = "credentialprovider.kubelet.k8s.io/v1";
/// A file is not longer.
const CONFIG_BYTES_MAX: u64 = 1024 * 1024;
/// Longest that credentials are kept, whatever a provider says.
const LIFE_MAX: Duration = Duration::from_secs(12 * 3600);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Config {
    api_version: String,
    kind: String,
    providers: Vec<Provider>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Provider {
    name: String,
    match_images: Vec<String>,
    default_cache_duration: String,
    api_version: String,
    #[serde(default)]
    args: Option<Vec<String>>,
    #[serde(default)]
    env: Option<Vec<Variable>>,
}

#[derive(Deserialize)]
struct Variable {
    name: String,
    value: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Response {
    api_version: String,
    kind: String,
    cache_key_type: CacheKey,
    #[serde(default)]
    cache_duration: Option<String>,
    #[serde(default)]
    auth: Option<BTreeMap<String, Auth>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
enum CacheKey {
    Image,
    Registry,
    Global,
}

#[derive(Deserialize)]
struct Auth {
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
}

/// Reads the configuration anew, and asks the first provider that is for this image.
pub(super) async fn ask(
    path: &Path,
    dir: &Path,
    registry: &RegistryName,
    repository: &str,
) -> Result<Given, LoginError> {
    let config = read(path)?;
    let image = format!("{registry}/{repository}");
    let fits = |provider: &&Provider| {
        provider
            .match_images
            .iter()
            .any(|pattern| matches(pattern, &image))
    };
    let absent = || LoginError::Absent(path.display().to_string());
    let provider = config.providers.iter().find(fits).ok_or_else(absent)?;
    let answer = provider.run(dir, &image).await?;
    let wrong = |reason: &str| LoginError::Program {
        program: provider.name.clone(),
        reason: reason.to_owned(),
    };
    let response: Response = serde_json::from_slice(&answer)
        .map_err(|_| wrong("its answer is not a CredentialProviderResponse in JSON"))?;
    if response.api_version != API_VERSION || response.kind != "CredentialProviderResponse" {
        return Err(wrong(&format!(
            "its answer is not a CredentialProviderResponse of {API_VERSION}"
        )));
    }
    let life = response
        .cache_duration
        .as_deref()
        .unwrap_or(&provider.default_cache_duration);
    let life = period(life).ok_or_else(|| wrong("its cacheDuration is not a duration, such as 5m0s"))?;
    let auth = response.auth.unwrap_or_default();
    // The most telling key first, as the kubelet does.
    let found = auth.iter().rev().find(|(pattern, _)| matches(pattern, &image));
    let (_, auth) = found.ok_or_else(absent)?;
    Ok(Given {
        login: Login::basic(&auth.username, &auth.password)?,
        life: life.min(LIFE_MAX),
        narrow: response.cache_key_type == CacheKey::Image,
    })
}

impl Provider {
    async fn run(&self, dir: &Path, image: &str) -> Result<Vec<u8>, LoginError> {
        let question = json!({
            "apiVersion": API_VERSION,
            "kind": "CredentialProviderRequest",
            "image": image,
        });
        let variables: Vec<(String, String)> = self
            .env
            .iter()
            .flatten()
            .map(|variable| (variable.name.clone(), variable.value.clone()))
            .collect();
        let arguments = self.args.clone().unwrap_or_default();
        helper::run(
            &dir.join(&self.name),
            &arguments,
            &variables,
            question.to_string().as_bytes(),
        )
        .await
    }
}

fn read(path: &Path) -> Result<Config, LoginError> {
    let wrong = |reason: String| LoginError::Form {
        path: path.display().to_string(),
        reason,
    };
    let length = std::fs::metadata(path)
        .map_err(|error| wrong(error.to_string()))?
        .len();
    if length > CONFIG_BYTES_MAX {
        return Err(wrong(format!("it is longer than {CONFIG_BYTES_MAX} bytes")));
    }
    let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    let config: Config = serde_saphyr::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    if config.api_version != CONFIG_VERSION || config.kind != "CredentialProviderConfig" {
        return Err(wrong(format!(
            "it is not a CredentialProviderConfig of {CONFIG_VERSION}"
        )));
    }
    for provider in &config.providers {
        let name = &provider.name;
        if name.is_empty()
            || name.contains('/')
            || name.starts_with('.')
            || name.contains(char::is_whitespace)
        {
            return Err(wrong(format!("{name:?} is not a program's name")));
        }
        if provider.api_version != API_VERSION {
            return Err(wrong(format!("the provider {name} does not speak {API_VERSION}")));
        }
        if period(&provider.default_cache_duration).is_none() {
            return Err(wrong(format!(
                "the defaultCacheDuration of {name} is not a duration, such as 12h"
            )));
        }
    }
    Ok(config)
}

/// Whether an image (`host[:port]/repository`) is one of a pattern's: as many labels of the host, each of which may have
/// `*` in it; the same port, where there is one on either side; a path that begins with the pattern's.
pub(super) fn matches(pattern: &str, image: &str) -> bool {
    let bare = pattern.split_once("://").map_or(pattern, |(_, rest)| rest);
    let (host, path) = bare.split_once('/').unwrap_or((bare, ""));
    let (image_host, image_path) = image.split_once('/').unwrap_or((image, ""));
    let (host, port) = host.split_once(':').unwrap_or((host, ""));
    let (image_host, image_port) = image_host.split_once(':').unwrap_or((image_host, ""));
    let (labels, image_labels) = (host.split('.'), image_host.split('.'));
    labels.clone().count() == image_labels.clone().count()
        && labels
            .zip(image_labels)
            .all(|(label, other)| glob(label.as_bytes(), other.as_bytes()))
        && port == image_port
        && image_path.starts_with(path)
}

/// Whether a label has the form of a pattern, in which `*` stands for anything. In time that is at most the product of
/// both lengths, whatever the pattern.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at, mut seen) = (0, 0);
    // Behind the last star, and where in the text it was tried.
    let mut star = None;
    while let Some(letter) = text.get(seen) {
        match (pattern.get(at), star) {
            (Some(b'*'), _) => {
                at += 1;
                star = Some((at, seen));
            }
            (Some(wanted), _) if wanted == letter || *wanted == b'?' => {
                at += 1;
                seen += 1;
            }
            (_, Some((behind, tried))) => {
                at = behind;
                seen = tried + 1;
                star = Some((behind, tried + 1));
            }
            (_, None) => return false,
        }
    }
    pattern.iter().skip(at).all(|letter| *letter == b'*')
}

/// A duration as Go writes it: `12h0m0s`, `1.5h`, `300ms`, `0`.
pub(super) fn period(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let (mut rest, mut sum) = (text, 0.0);
    while !rest.is_empty() {
        let end = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.')?;
        let (number, behind) = rest.split_at(end);
        let end = behind
            .find(|letter: char| letter.is_ascii_digit() || letter == '.')
            .unwrap_or(behind.len());
        let (unit, behind) = behind.split_at(end);
        let seconds = match unit {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        sum += number.parse::<f64>().ok()? * seconds;
        rest = behind;
    }
    (!text.is_empty()).then(|| Duration::try_from_secs_f64(sum).ok())?
}
