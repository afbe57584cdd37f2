// Go's net/http: asks for each URL and prints what came.
package main

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
)

func main() {
	for _, url := range os.Args[1:] {
		answer, err := http.Get(url)
		if err != nil {
			log.Fatal(err)
		}
		body, err := io.ReadAll(answer.Body)
		answer.Body.Close()
		if err != nil || answer.StatusCode != http.StatusOK {
			log.Fatalf("%s answered %s: %v", url, answer.Status, err)
		}
		fmt.Println("Cache-Status:", answer.Header.Get("Cache-Status"))
		fmt.Println(string(body))
	}
}
