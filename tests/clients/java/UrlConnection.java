import java.net.HttpURLConnection;
import java.net.URL;

/** HttpURLConnection: asks for each URL and prints what came. */
public class UrlConnection {
    public static void main(String[] urls) throws Exception {
        for (String url : urls) {
            HttpURLConnection connection = (HttpURLConnection) new URL(url).openConnection();
            if (connection.getResponseCode() != 200) {
                throw new IllegalStateException(url + " answered " + connection.getResponseCode());
            }
            System.out.println("Cache-Status: " + connection.getHeaderField("Cache-Status"));
            System.out.println(new String(connection.getInputStream().readAllBytes()));
        }
    }
}
