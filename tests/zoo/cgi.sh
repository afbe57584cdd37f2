#!/bin/sh
# The CGI program of lighttpd and Apache httpd. PATH_INFO is /unsized/PATH, a file below ZOO_ROOT that
# goes out without Content-Length, or /status/CODE. A short body says its length: otherwise the server
# says it or does not, as the end of the program comes early or late.

path="${PATH_INFO#/}"
case "$path" in
unsized/*)
    file="$ZOO_ROOT/${path#unsized/}"
    etag="\"cgi-${path##*/}\""
    if [ "$HTTP_IF_NONE_MATCH" = "$etag" ]; then
        printf 'Status: 304\r\nETag: %s\r\n\r\n' "$etag"
    else
        printf 'Status: 200\r\nContent-Type: application/octet-stream\r\nETag: %s\r\n\r\n' "$etag"
        [ "$REQUEST_METHOD" = HEAD ] || cat "$file"
    fi
    ;;
status/204) printf 'Status: 204\r\n\r\n' ;;
status/500)
    printf 'Status: 500\r\nContent-Type: text/plain\r\nContent-Length: 20\r\n\r\nthe program says no\n'
    ;;
*)
    printf 'Status: 404\r\nContent-Type: text/plain\r\nContent-Length: 14\r\n\r\nno such thing\n'
    ;;
esac
