//! URLs, as flags and member requests carry them.

use kelson::config::Url;
use kelson::rpc::check;

use super::engine::{Target, Verdict};

pub struct Urls;

impl Target for Urls {
    const NAME: &'static str = "urls";
    const ITERATIONS: u64 = 4_000;

    fn seeds(&mut self) -> Vec<Vec<u8>> {
        let texts = [
            "http://127.0.0.1:2379",
            "https://[::1]:2380/",
            "unix:///run/kelson.sock",
            "unixs://a",
            "http://:0",
            "http://localhost:65535",
            "http://10.0.0.1:2379, https://host.example:2380",
            " http://[fe80::1%eth0]:1 ",
            "http://user:pass@host:1",
        ];
        texts.map(|text| text.as_bytes().to_vec()).to_vec()
    }

    fn run(&mut self, input: &[u8]) -> Verdict {
        let text = String::from_utf8_lossy(input);
        let urls: Vec<String> = text.split(',').map(str::to_owned).collect();
        let of_members = check::peer_urls(&urls);
        let list = Url::parse_list(&text);
        if list.as_ref().is_ok_and(|list| list.len() == urls.len()) {
            assert!(of_members.is_ok(), "{text:?}: a flag may be so, but a member not");
        }
        for url in list.iter().flatten() {
            assert_eq!(Url::parse(&url.to_string()).as_ref(), Ok(url), "it reads back as it is printed");
            assert_eq!(url.port().is_some(), url.to_string().starts_with("http"));
            let (_host, _address) = (url.host(), url.listen_address());
        }
        // Without the URL that the error names.
        Verdict::of(list.map_err(|error| error.split(": ").next().unwrap_or_default().to_owned()))
    }
}
