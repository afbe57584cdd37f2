// Go's net/http as an origin of tests/suite/zoo: HTTP/1.1 in the clear, HTTP/2 or HTTP/1.1 over TLS.
package main

import (
	"bytes"
	"compress/gzip"
	"crypto/tls"
	"flag"
	"io"
	"log"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

const idle = 300 * time.Millisecond

var (
	root     = flag.String("root", ".", "the directory of bodies")
	modified = time.Date(1994, time.November, 6, 8, 49, 37, 0, time.UTC)
)

func main() {
	plain := flag.String("plain", "", "where it listens in the clear")
	secure := flag.String("tls", "", "where it listens with TLS")
	cert := flag.String("cert", "", "its certificate")
	key := flag.String("key", "", "its key")
	h2 := flag.Bool("h2", true, "whether it offers HTTP/2")
	flag.Parse()
	quiet := log.New(io.Discard, "", 0)
	clear := http.Server{Addr: *plain, Handler: http.HandlerFunc(answer), IdleTimeout: idle, ErrorLog: quiet}
	private := http.Server{Addr: *secure, Handler: http.HandlerFunc(answer), IdleTimeout: idle, ErrorLog: quiet}
	if !*h2 {
		private.TLSNextProto = map[string]func(*http.Server, *tls.Conn, http.Handler){}
	}
	go func() { log.Fatal(clear.ListenAndServe()) }()
	log.Fatal(private.ListenAndServeTLS(*cert, *key))
}

func answer(w http.ResponseWriter, r *http.Request) {
	parts := strings.Split(r.URL.Path, "/")
	if len(parts) != 3 {
		http.NotFound(w, r)
		return
	}
	kind, name := parts[1], filepath.Base(parts[2])
	fields := w.Header()
	fields.Set("Cache-Control", "max-age=60")
	fields.Add("X-Zoo", "go one")
	fields.Add("X-Zoo", "go two")
	fields.Set("X-Protocol", r.Proto)
	switch kind {
	case "sized":
		sized(w, r, name)
	case "unsized":
		unsized(w, r, name)
	case "trailers":
		describe(w, name, "application/octet-stream")
		fields.Set("Trailer", "X-After")
		inPieces(w, r, body(name))
		fields.Set("X-After", "go")
	case "status":
		status(w, r, name)
	case "gzip":
		encoded(w, r, name, "gzip", gzipped)
	case "br":
		// The standard library has no encoder.
		encoded(w, r, name, "br", func([]byte) []byte { return body(filepath.Join("brotlied", name)) })
	case "early":
		fields.Set("Link", "</style.css>; rel=preload; as=style")
		w.WriteHeader(http.StatusEarlyHints)
		fields.Del("Link")
		sized(w, r, name)
	case "lastempty":
		lastEmpty(w, r, name)
	case "cut":
		cut(w, name)
	default:
		http.NotFound(w, r)
	}
}

func body(name string) []byte {
	bytes, err := os.ReadFile(filepath.Join(*root, name))
	if err != nil {
		panic(err)
	}
	return bytes
}

// describe says what the body is.
func describe(w http.ResponseWriter, name, kind string) {
	w.Header().Set("Content-Type", kind)
	w.Header().Set("ETag", `"go-`+name+`"`)
	w.Header().Set("Last-Modified", modified.Format(http.TimeFormat))
}

func sized(w http.ResponseWriter, r *http.Request, name string) {
	describe(w, name, "application/octet-stream")
	http.ServeContent(w, r, name, modified, bytes.NewReader(body(name)))
}

// isUnchanged answers 304 to a client that has the body already.
func isUnchanged(w http.ResponseWriter, r *http.Request, name string) bool {
	if r.Header.Get("If-None-Match") != `"go-`+name+`"` {
		return false
	}
	w.WriteHeader(http.StatusNotModified)
	return true
}

func unsized(w http.ResponseWriter, r *http.Request, name string) {
	describe(w, name, "application/octet-stream")
	if !isUnchanged(w, r, name) {
		inPieces(w, r, body(name))
	}
}

// inPieces sends the head before the body, so that nothing tells its length.
func inPieces(w http.ResponseWriter, r *http.Request, bytes []byte) {
	w.WriteHeader(http.StatusOK)
	w.(http.Flusher).Flush()
	if r.Method == http.MethodHead {
		return
	}
	for len(bytes) > 0 {
		piece := 70000
		if piece > len(bytes) {
			piece = len(bytes)
		}
		w.Write(bytes[:piece])
		bytes = bytes[piece:]
	}
}

func status(w http.ResponseWriter, r *http.Request, code string) {
	switch code {
	case "204":
		w.WriteHeader(http.StatusNoContent)
	case "301":
		http.Redirect(w, r, "https://elsewhere.example.test/there?a=1&b=2", http.StatusMovedPermanently)
	case "500":
		http.Error(w, "go says no", http.StatusInternalServerError)
	default:
		http.NotFound(w, r)
	}
}

func gzipped(plain []byte) []byte {
	var packed bytes.Buffer
	writer := gzip.NewWriter(&packed)
	writer.Write(plain)
	writer.Close()
	return packed.Bytes()
}

func encoded(w http.ResponseWriter, r *http.Request, name, coding string, encode func([]byte) []byte) {
	bytes, variant := body(name), name
	w.Header().Set("Vary", "Accept-Encoding")
	if strings.Contains(r.Header.Get("Accept-Encoding"), coding) {
		bytes, variant = encode(bytes), coding+"-"+name
		w.Header().Set("Content-Encoding", coding)
	}
	describe(w, variant, "text/plain")
	if isUnchanged(w, r, variant) {
		return
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(bytes)))
	w.Write(bytes)
}

// lastEmpty sends all of a body of a known length; only then does its handler end the stream.
func lastEmpty(w http.ResponseWriter, r *http.Request, name string) {
	if r.ProtoMajor < 2 {
		http.NotFound(w, r)
		return
	}
	bytes := body(name)
	describe(w, name, "application/octet-stream")
	w.Header().Set("Content-Length", strconv.Itoa(len(bytes)))
	w.Write(bytes)
	w.(http.Flusher).Flush()
}

// cut ends in the middle of a body of 16,384 bytes.
func cut(w http.ResponseWriter, name string) {
	if name == "connection" {
		if hijacker, ok := w.(http.Hijacker); ok {
			connection, buffered, err := hijacker.Hijack()
			if err != nil {
				panic(err)
			}
			buffered.WriteString("HTTP/1.1 200 OK\r\nContent-Length: 16384\r\n\r\n")
			buffered.Write(body("16384")[:10000])
			buffered.Flush()
			connection.Close()
			return
		}
		w.WriteHeader(http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	if name == "sized" {
		w.Header().Set("Content-Length", "16384")
	}
	w.Write(body("16384")[:10000])
	w.(http.Flusher).Flush()
	time.Sleep(20 * time.Millisecond)
	panic(http.ErrAbortHandler)
}
