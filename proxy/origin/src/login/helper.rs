//! A program that is asked for credentials: one question on its input, one answer on its output.
//!
//! What must hold: it ends, or is ended, within [`TIME_MAX`]; no more than [`ANSWER_BYTES_MAX`] of it is read; neither its
//! answer nor what it complains about reaches a log, since both may hold secrets.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::LoginError;

/// How long a program may take.
const TIME_MAX: Duration = Duration::from_secs(10);
/// How much it may answer.
const ANSWER_BYTES_MAX: u64 = 1024 * 1024;

/// Runs a program with these arguments and variables besides the proxy's own; `question` is its input.
pub(super) async fn run(
    program: &Path,
    arguments: &[String],
    variables: &[(String, String)],
    question: &[u8],
) -> Result<Vec<u8>, LoginError> {
    let failed = |reason: String| LoginError::Program {
        program: program.display().to_string(),
        reason,
    };
    let mut command = Command::new(program);
    command
        .args(arguments.iter().map(OsStr::new))
        .envs(variables.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    let mut child = command
        .spawn()
        .map_err(|error| failed(format!("cannot be run: {error}")))?;
    let answered = timeout(TIME_MAX, talk(&mut child, question)).await;
    let (answer, status) = match answered {
        Ok(Ok(Some(answered))) => answered,
        Ok(Ok(None)) => return Err(failed(format!("it says more than {ANSWER_BYTES_MAX} bytes"))),
        Ok(Err(error)) => return Err(failed(format!("it cannot be talked to: {error}"))),
        Err(_) => return Err(failed(format!("it did not answer within {TIME_MAX:?}"))),
    };
    if !status.success() {
        return Err(failed(format!("it failed: {status}")));
    }
    Ok(answer)
}

/// `None` when it says too much.
async fn talk(child: &mut Child, question: &[u8]) -> io::Result<Option<(Vec<u8>, std::process::ExitStatus)>> {
    let (input, output) = (child.stdin.take(), child.stdout.take());
    let ask = async {
        if let Some(mut input) = input {
            // Who does not want to hear the question may know the answer.
            _ = input.write_all(question).await;
        }
    };
    let listen = async {
        let mut answer = Vec::new();
        if let Some(output) = output {
            output.take(ANSWER_BYTES_MAX + 1).read_to_end(&mut answer).await?;
        }
        Ok::<_, io::Error>(answer)
    };
    let ((), answer) = tokio::join!(ask, listen);
    let answer = answer?;
    if answer.len() as u64 > ANSWER_BYTES_MAX {
        return Ok(None);
    }
    Ok(Some((answer, child.wait().await?)))
}
