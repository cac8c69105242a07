// The JDK's HttpClient as it comes: it offers HTTP/2 (`Upgrade: h2c`) with its first request to a server.
//
//     java Client.java URL

import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublisher;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.charset.StandardCharsets;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import java.util.zip.GZIPOutputStream;

public class Client {
    static final byte[] QUERY = "{\"query\": \"crème MILK\"}".getBytes(StandardCharsets.UTF_8);

    public static void main(String[] arguments) throws Exception {
        String url = arguments[0];
        show("sized", send(HttpClient.newHttpClient(), post(url, BodyPublishers.ofByteArray(QUERY))));
        // A stream has no known length: the body is sent in chunks.
        BodyPublisher stream = BodyPublishers.ofInputStream(() -> new ByteArrayInputStream(QUERY));
        show("chunked", send(HttpClient.newHttpClient(), post(url, stream)));
        HttpClient client = HttpClient.newHttpClient();
        ByteArrayOutputStream packed = new ByteArrayOutputStream();
        try (GZIPOutputStream out = new GZIPOutputStream(packed)) {
            out.write(QUERY);
        }
        show("gzip", send(client, request(url, "/v1/label").header("Content-Encoding", "gzip")
            .POST(BodyPublishers.ofByteArray(packed.toByteArray())).build()));
        show("expect", send(HttpClient.newHttpClient(), request(url, "/v1/label").expectContinue(true)
            .POST(BodyPublishers.ofByteArray(QUERY)).build()));
        show("http/1.1", send(HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build(),
            post(url, BodyPublishers.ofByteArray(QUERY))));
        show("models", send(client, request(url, "/v1/models").GET().build()));
        show("head", send(client, request(url, "/healthz").method("HEAD", BodyPublishers.noBody()).build()));
        show("wrong", send(HttpClient.newHttpClient(), post(url, BodyPublishers.ofString("{}"))));
        HttpResponse<String> lines = send(HttpClient.newHttpClient(), request(url, "/v1/label:batch")
            .POST(BodyPublishers.ofString("{\"queries\": [\"rice MILK\", \"oat milk\", \"tea\"]}")).build());
        System.out.println("batch " + lines.statusCode() + " " + lines.body().lines().count());
        HttpClient many = HttpClient.newHttpClient();  // several connections, each with an offer of its own
        List<CompletableFuture<Integer>> sent = IntStream.range(0, 40).mapToObj(i -> many.sendAsync(
            post(url, BodyPublishers.ofString("{\"query\": \"query " + i + "\"}")), BodyHandlers.ofString()
        ).thenApply(HttpResponse::statusCode)).collect(Collectors.toList());
        System.out.println("parallel " + sent.stream().map(CompletableFuture::join).distinct().toList());
    }

    static HttpRequest.Builder request(String url, String path) {
        return HttpRequest.newBuilder(URI.create(url + path)).header("Content-Type", "application/json");
    }

    static HttpRequest post(String url, BodyPublisher body) {
        return request(url, "/v1/label").POST(body).build();
    }

    static HttpResponse<String> send(HttpClient client, HttpRequest request) throws Exception {
        return client.send(request, BodyHandlers.ofString(StandardCharsets.UTF_8));
    }

    static void show(String name, HttpResponse<String> response) {
        System.out.println(name + " " + response.statusCode() + " " + response.version() + " " + response.body().strip());
    }
}
