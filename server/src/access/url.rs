//! Where keys may be fetched from.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use axum::http::Uri;

/// Longest URL of keys.
pub const KEYS_URL_BYTES_MAX: usize = 2_048;

/// The URL of a JWK Set: by https, or by http on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeysUrl {
    uri: Uri,
    /// Whether it is asked by TLS. If not, only this machine is asked.
    pub(super) is_secure: bool,
}

/// What is no such URL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeysUrlError {
    /// Not a URL.
    #[error("it is no URL: https://HOST/PATH of a JWK Set, at most {KEYS_URL_BYTES_MAX} bytes")]
    Form,
    /// Keys that come in the clear.
    #[error(
        "keys are fetched by https://: whoever is on the way could put keys of their own among them; http:// is \
         for this machine only (localhost, 127.0.0.1, [::1])"
    )]
    Plain,
    /// A name and a password in front of the host.
    #[error("a name or password in the URL is not sent: a JWK Set is public")]
    UserInfo,
}

impl FromStr for KeysUrl {
    type Err = KeysUrlError;

    fn from_str(text: &str) -> Result<Self, KeysUrlError> {
        if text.len() > KEYS_URL_BYTES_MAX {
            return Err(KeysUrlError::Form);
        }
        let uri: Uri = text.parse().map_err(|_| KeysUrlError::Form)?;
        let (Some(authority), Some(scheme)) = (uri.authority(), uri.scheme_str()) else {
            return Err(KeysUrlError::Form);
        };
        if authority.as_str().contains('@') {
            return Err(KeysUrlError::UserInfo);
        }
        if authority.host().is_empty() || authority.port().is_some() != has_port(authority.as_str()) {
            return Err(KeysUrlError::Form);
        }
        let is_secure = match scheme {
            "https" => true,
            "http" if is_this_machine(bare(authority.host())) => false,
            "http" => return Err(KeysUrlError::Plain),
            _ => return Err(KeysUrlError::Form),
        };
        Ok(Self { uri, is_secure })
    }
}

impl fmt::Display for KeysUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.uri.fmt(f)
    }
}

impl KeysUrl {
    /// The host's name, or its address without brackets.
    pub(super) fn host(&self) -> &str {
        bare(self.uri.host().unwrap_or_default())
    }

    pub(super) fn port(&self) -> u16 {
        self.uri.port_u16().unwrap_or(if self.is_secure { 443 } else { 80 })
    }

    /// What a request names as its host.
    pub(super) fn authority(&self) -> &str {
        self.uri.authority().map_or("", |authority| authority.as_str())
    }

    /// What a request asks the host for.
    pub(super) fn target(&self) -> &str {
        self.uri.path_and_query().map_or("/", |target| target.as_str())
    }
}

/// An address without the brackets that IPv6 has in a URL.
fn bare(host: &str) -> &str {
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

/// Whether a colon behind the host says that there is a port.
fn has_port(authority: &str) -> bool {
    authority.rsplit_once(']').map_or(authority, |(_, behind)| behind).contains(':')
}

fn is_this_machine(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<KeysUrl, KeysUrlError> {
        text.parse()
    }

    #[test]
    fn keys_come_by_https_or_from_this_machine() {
        let url = read("https://id.test/.well-known/jwks.json?v=1").unwrap();
        assert_eq!((url.host(), url.port(), url.authority()), ("id.test", 443, "id.test"));
        assert_eq!((url.target(), url.is_secure), ("/.well-known/jwks.json?v=1", true));
        let url = read("http://[::1]:8080").unwrap();
        assert_eq!((url.host(), url.port(), url.target(), url.is_secure), ("::1", 8080, "/", false));
        for fine in
            ["http://localhost/k", "http://127.0.0.1:1/k", "http://127.9.9.9/k", "https://[2001:db8::1]/k"]
        {
            assert_eq!(read(fine).unwrap().to_string(), fine);
        }
        for plain in
            ["http://id.test/k", "http://localhost.id.test/k", "http://10.0.0.1/k", "http://[2001:db8::1]/k"]
        {
            assert_eq!(read(plain), Err(KeysUrlError::Plain), "{plain}");
        }
        for user in ["https://ada:secret@id.test/k", "http://localhost@id.test/k"] {
            assert_eq!(read(user), Err(KeysUrlError::UserInfo), "{user}");
        }
        for none in
            ["", "id.test/k", "/k", "ftp://id.test/k", "https:///k", "https://", "https://id.test:99999/k"]
        {
            assert_eq!(read(none), Err(KeysUrlError::Form), "{none}");
        }
    }

    #[test]
    fn a_url_has_a_longest() {
        let of = |bytes: usize| format!("https://id.test/{}", "x".repeat(bytes - 16));
        assert!(read(&of(KEYS_URL_BYTES_MAX - 1)).is_ok() && read(&of(KEYS_URL_BYTES_MAX)).is_ok());
        assert_eq!(read(&of(KEYS_URL_BYTES_MAX + 1)), Err(KeysUrlError::Form));
    }
}
